//! Identity in the simulator: what authorities keep, and the files of sidecars.
//!
//! An authority is a process like others, and its state is on that process's disk. Whatever an
//! operator does beside it runs as a process on its machine, with that disk.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use http::Request;
use http::header::AUTHORIZATION;
use http_body_util::Full;
use proxy::ca::{authority as ca, client, token::Bearer};
use std::net::SocketAddr;
use std::time::Duration;

use super::{SimWorld, Who};
use crate::authority::{self, IdentityError};
use crate::mesh::{ProcessId, Role};
use crate::plan::{CA_PORT, IDENTITY_DIR, Identity};
use crate::sim::net::SimNet;
use crate::world::Error;

/// How long an operator's token counts.
const MINUTE: Duration = Duration::from_secs(60);

impl SimWorld {
    /// Runs `f` as an operator on the machine of an authority, with the world of each authority.
    async fn as_operator<T: 'static, F: Future<Output = T> + 'static>(
        &self,
        machine: usize,
        f: impl FnOnce(Vec<proxy::world::World<SimNet>>) -> F + 'static,
    ) -> Result<T, Error> {
        let authorities = self.plan.authorities.iter();
        let process = |instance| ProcessId { instance, role: Role::App };
        let disks: Vec<_> = authorities.map(|authority| self.disk(process(authority.instance))).collect();
        let machine = self.plan.authorities[machine].instance;
        self.inside(machine, Who::Tool, "operator", |world| {
            f(disks.into_iter().map(|disk| world.clone().with_disk(disk)).collect())
        })
        .await
    }

    /// Gives each authority its first root and each sidecar the files with which it begins, before
    /// any of them runs.
    pub(super) async fn found_authorities(&self) -> Result<(), Error> {
        if self.plan.authorities.is_empty() {
            return Ok(());
        }
        let plan = self.plan.clone();
        let founded = self.as_operator(0, |worlds| async move {
            for (world, authority) in worlds.iter().zip(&plan.authorities) {
                authority::found(world, authority).await?;
            }
            Ok::<_, IdentityError>(())
        });
        founded.await?.map_err(|error| Error::Failed(error.to_string()))?;
        for (instance, of_it) in self.plan.instances.iter().enumerate() {
            if let (Some(identity), Some(_)) = (&of_it.identity, &of_it.sidecar) {
                self.deliver_identity(instance, identity).await?;
            }
        }
        Ok(())
    }

    /// Gives a sidecar the files for an identity.
    pub(super) async fn deliver_identity(&self, instance: usize, identity: &Identity) -> Result<(), Error> {
        let (plan, identity) = (self.plan.clone(), identity.clone());
        let made =
            self.as_operator(0, |worlds| async move { authority::files(&worlds, &plan, &identity).await });
        let made = made.await?.map_err(|error| Error::Failed(error.to_string()))?;
        let path = |name: &str| -> PathBuf { Path::new(IDENTITY_DIR).join(name) };
        self.files[instance].write(made.into_iter().map(|(name, text)| (path(name), text)));
        Ok(())
    }

    /// The roots of an authority that are to be trusted now, PEM.
    pub(super) async fn roots(&self, authority: usize) -> Result<Vec<String>, Error> {
        let of = self.plan.authorities[authority].clone();
        let asked = self.as_operator(authority, move |mut worlds| async move {
            authority::roots(&worlds.swap_remove(authority), &of).await
        });
        asked.await?.map_err(|error| Error::Failed(error.to_string()))
    }

    /// Asks an authority that runs, by its position, to do something, as its operator: `path` of
    /// its interface and a body. Gives the body of the answer.
    ///
    /// # Errors
    /// If it does not answer, or refuses.
    pub async fn operate(&self, authority: usize, path: &'static str, body: Vec<u8>) -> Result<Bytes, Error> {
        let address =
            SocketAddr::from((self.plan.instances[self.plan.authorities[authority].instance].v4, CA_PORT));
        let asked = self.as_operator(authority, move |mut worlds| async move {
            let world = worlds.swap_remove(authority);
            let words = |error: &dyn std::fmt::Display| error.to_string();
            let token = ca::token(&world, Bearer::Operator, MINUTE).await.map_err(|e| words(&e))?;
            let (trust, expected) = ca::known_by(&world).await.map_err(|e| words(&e))?;
            let request = Request::post(path).header(AUTHORIZATION, format!("Bearer {token}"));
            let request = request.body(Full::new(Bytes::from(body))).map_err(|e| words(&e))?;
            let answer = client::ask(&world, (address, &expected), trust.into(), None, request).await;
            let answer = answer.map_err(|e| words(&e))?;
            match answer.status().is_success() {
                true => Ok(answer.into_body()),
                false => Err(String::from_utf8_lossy(answer.body()).into_owned()),
            }
        });
        asked.await?.map_err(Error::Failed)
    }
}
