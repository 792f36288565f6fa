//! The lines of a request or of an opaque connection in the audit log and in the access log, as far
//! as there are any: what came of it is said to both in one place, or they would contradict each
//! other.

use crate::audit::AuditEntry;
use crate::error::Kind;
use crate::telemetry::access::AccessEntry;

/// The lines of one request or one connection, which are written when this is dropped.
#[derive(Default)]
pub struct Lines {
    /// That of the audit log.
    pub audit: Option<AuditEntry>,
    /// That of the access log.
    pub access: Option<AccessEntry>,
}

impl Lines {
    /// Notes why it failed. The first reason stays.
    pub fn failed(&mut self, kind: Kind) {
        if let Some(audit) = &mut self.audit {
            audit.failed(kind);
        }
        if let Some(access) = &mut self.access {
            access.failed(kind);
        }
    }

    /// Counts bytes that were carried to the server (`forth`), and from it.
    pub fn carried(&mut self, forth: u64, back: u64) {
        if let Some(audit) = &mut self.audit {
            audit.record().carried(forth, back);
        }
        if let Some(access) = &mut self.access {
            access.received(forth);
            access.sent(back);
        }
    }

    /// Notes that it is over as it should be.
    pub fn ended(&mut self) {
        if let Some(audit) = &mut self.audit {
            audit.ended();
        }
        if let Some(access) = &mut self.access {
            access.ended();
        }
    }
}
