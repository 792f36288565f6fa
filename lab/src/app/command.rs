//! `app = { cmd = [..] }`: any program, with its arguments. Only the kernel world can run one.

use std::convert::Infallible;
use std::ffi::OsString;
use std::io;

use proxy::world::Net;
use serde::{Deserialize, Serialize};
use serde_spanned::Spanned;

use super::kind::{App, ForeignCommand, ForeignProgram, Place, Start};
use crate::syntax::diagnose::Mistake;

/// A program with its arguments. It finds the port that it has to listen on in `PORT`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct CommandApp(pub Vec<String>);

impl App for CommandApp {
    type Table = Vec<String>;
    type Server = Infallible;

    const EXAMPLE: &'static str = "{ cmd = [\"program\", \"argument\"] }";
    const IS_BUILT_IN: bool = false;

    fn resolve(table: &Spanned<Vec<String>>, mistakes: &mut Vec<Mistake>) -> Option<Self> {
        if table.get_ref().is_empty() {
            let mistake = Mistake::new(table.span(), "the command names no program", "empty");
            mistakes.push(mistake.help(format!("write {}", Self::EXAMPLE)));
            return None;
        }
        Some(CommandApp(table.get_ref().clone()))
    }

    fn server<N: Net>(&self, _: Start<'_, N>) -> io::Result<Infallible> {
        let message = format!("`{}` is a program of its own, not a built-in app", self.0.join(" "));
        Err(io::Error::new(io::ErrorKind::InvalidInput, message))
    }

    fn foreign(&self) -> Option<&dyn ForeignProgram> {
        Some(self)
    }
}

impl ForeignProgram for CommandApp {
    fn name(&self) -> &str {
        self.0.first().map_or("", String::as_str)
    }

    fn command(&self, place: &Place<'_>) -> ForeignCommand {
        ForeignCommand {
            argv: self.0.iter().map(OsString::from).collect(),
            env: vec![("PORT".to_owned(), place.port.to_string())],
        }
    }
}
