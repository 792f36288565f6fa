//! Real programs through two sidecars on the real kernel: each client must find what it would find
//! without them.
//!
//! `mesh` brings up one lab with a real server behind each sidecar (nginx, gRPC, WebSocket,
//! PostgreSQL, Redis, SMTP); each other file is one kind of client. Every test asks both sidecars'
//! counters too, so that traffic that passed by them, or that was carried as something else than it
//! is, fails. `ci/clients` installs the programs.
//!
//! Times and rates are printed, never judged.

mod curl;
mod databases;
mod grpc;
mod mail;
mod mesh;
mod tls;
mod websocket;
