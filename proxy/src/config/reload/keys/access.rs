//! The rows of identity and access.

use super::{Keys, keys};

const FROM: &str = "authorization.policy = [{ name = 'a', rule = [{ from = [{ KEY }] }] }]";
const TO: &str = "authorization.policy = [{ name = 'a', rule = [{ to = [{ KEY }] }] }]";
const WHEN: &str =
    "authorization.policy = [{ name = 'a', rule = [{ when = [{ KEY, key = 'source.namespace' }] }] }]";
const CUSTOM: &str = "authorization.policy = [{ KEY, name = 'a', action = 'custom', rule = [{}] }]\n\
     authorization.provider = [{ name = 'a', address = '10.0.0.1:80' }, { name = 'b', address = '10.0.0.1:80' }]";
const AUTHORIZER: &str = "authorization.provider = [{ KEY, name = 'a', address = '10.0.0.1:80' }]";
const JWT: &str = "jwt = [{ KEY, name = 'n', issuer = 'i', jwks.file = 'f' }]";
const JWKS: &str = "jwt = [{ name = 'n', issuer = 'i', jwks = { KEY } }]";
const URL: &str = "jwt = [{ name = 'n', issuer = 'i', jwks = { KEY, url = 'http://a' } }]";

/// By table.
pub(super) const ACCESS: &[Keys] = &[
    keys(
        "Authorization",
        &["#top"],
        "authorization.",
        &[
            ("default", "'allow'", "'deny'", ""),
            ("path_normalization", "'none'", "'merge_slashes'", ""),
            ("trusted_hops", "0", "1", ""),
        ],
    ),
    keys(
        "Policy",
        &["#top"],
        "",
        &[
            ("name", "'a'", "'b'", "authorization.policy = [{ KEY }]"),
            ("action", "'deny'", "'allow'", "authorization.policy = [{ KEY, name = 'a', rule = [{}] }]"),
            ("dry_run", "false", "true", "authorization.policy = [{ KEY, name = 'a' }]"),
            ("provider", "'a'", "'b'", CUSTOM),
        ],
    ),
    keys(
        "PolicySource",
        &["#top"],
        "",
        &[
            ("principals", "['a/a']", "['a/b']", FROM),
            ("not_principals", "['a/a']", "['a/b']", FROM),
            ("request_principals", "['a/a']", "['a/b']", FROM),
            ("not_request_principals", "['a/a']", "['a/b']", FROM),
            ("namespaces", "['a']", "['b']", FROM),
            ("not_namespaces", "['a']", "['b']", FROM),
            ("service_accounts", "['a/a']", "['a/b']", FROM),
            ("not_service_accounts", "['a/a']", "['a/b']", FROM),
            ("ip_blocks", "['10.0.0.1']", "['10.0.0.0/8']", FROM),
            ("not_ip_blocks", "['10.0.0.1']", "['10.0.0.0/8']", FROM),
            ("remote_ip_blocks", "['10.0.0.1']", "['10.0.0.0/8']", FROM),
            ("not_remote_ip_blocks", "['10.0.0.1']", "['10.0.0.0/8']", FROM),
        ],
    ),
    keys(
        "PolicyOperation",
        &["#top"],
        "",
        &[
            ("hosts", "['a']", "['b']", TO),
            ("not_hosts", "['a']", "['b']", TO),
            ("ports", "[1]", "[2]", TO),
            ("not_ports", "[1]", "[2]", TO),
            ("methods", "['A']", "['B']", TO),
            ("not_methods", "['A']", "['B']", TO),
            ("paths", "['/a']", "['/b']", TO),
            ("not_paths", "['/a']", "['/b']", TO),
        ],
    ),
    keys(
        "PolicyCondition",
        &["#top"],
        "",
        &[
            (
                "key",
                "'source.principal'",
                "'source.namespace'",
                "authorization.policy = [{ name = 'a', rule = [{ when = [{ KEY, values = ['a*'] }] }] }]",
            ),
            ("values", "['a']", "['b']", WHEN),
            ("not_values", "['a']", "['b']", WHEN),
        ],
    ),
    keys(
        "ExternalAuthorizer",
        &["#top"],
        "",
        &[
            ("name", "'a'", "'b'", "authorization.provider = [{ KEY, address = '10.0.0.1:80' }]"),
            ("address", "'10.0.0.1:80'", "'10.0.0.1:81'", "authorization.provider = [{ KEY, name = 'a' }]"),
            ("path_prefix", "'/a'", "'/b'", AUTHORIZER),
            ("timeout", "'1s'", "'2s'", AUTHORIZER),
            ("fail_open", "true", "false", AUTHORIZER),
            ("status_on_error", "403", "503", AUTHORIZER),
            ("include_request_headers", "['a']", "['b']", AUTHORIZER),
            ("include_additional_headers", "{ a = 'a' }", "{ a = 'b' }", AUTHORIZER),
            ("headers_to_upstream_on_allow", "['a']", "['b']", AUTHORIZER),
            ("headers_to_downstream_on_deny", "['a']", "['b']", AUTHORIZER),
        ],
    ),
    keys(
        "Jwt",
        &["#top"],
        "",
        &[
            ("name", "'a'", "'b'", "jwt = [{ KEY, issuer = 'i', jwks.file = 'f' }]"),
            ("issuer", "'a'", "'b'", "jwt = [{ KEY, name = 'n', jwks.file = 'f' }]"),
            ("audiences", "['a']", "['b']", JWT),
            ("algorithms", "['RS256']", "['ES256']", JWT),
            ("from_params", "['a']", "['b']", JWT),
            ("forward", "true", "false", JWT),
            ("claims_to_headers", "{ a = 'a' }", "{ a = 'b' }", JWT),
            ("payload_header", "'a'", "'b'", JWT),
            ("clock_skew", "'1s'", "'2s'", JWT),
        ],
    ),
    keys(
        "Jwks",
        &["#top"],
        "",
        &[
            (
                "inline",
                "'{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"yZnMS3EQDBxQ5W42jwABqSWVq_lRH-kTkxaQZMMQKes\"}]}'",
                "'{\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"kid\":\"a\",\"x\":\"yZnMS3EQDBxQ5W42jwABqSWVq_lRH-kTkxaQZMMQKes\"}]}'",
                JWKS,
            ),
            ("file", "'a'", "'b'", JWKS),
            ("url", "'http://a'", "'http://b'", JWKS),
            (
                "roots",
                "'a'",
                "'b'",
                "jwt = [{ name = 'n', issuer = 'i', jwks = { KEY, url = 'https://a' } }]",
            ),
            ("refresh", "'1s'", "'2s'", URL),
            ("timeout", "'1s'", "'2s'", URL),
            ("stale_after", "'1s'", "'2s'", URL),
        ],
    ),
    keys(
        "TokenHeader",
        &["#top"],
        "",
        &[
            (
                "name",
                "'a'",
                "'b'",
                "jwt = [{ name = 'n', issuer = 'i', jwks.file = 'f', from_headers = [{ KEY }] }]",
            ),
            (
                "prefix",
                "'a'",
                "'b'",
                "jwt = [{ name = 'n', issuer = 'i', jwks.file = 'f', from_headers = [{ KEY, name = 'a' }] }]",
            ),
        ],
    ),
    keys("Admin", &["#top"], "admin.", &[("token", "'/a'", "'/b'", "")]),
    keys(
        "AccessLog",
        &["#top"],
        "access_log.",
        &[
            ("path", "'/a'", "'stdout'", ""),
            ("format", "'json'", "'%DURATION%'", "access_log.path = '/a'"),
            ("errors", "false", "true", "access_log.path = '/a'"),
            ("slower_than", "'1s'", "'2s'", "access_log.path = '/a'"),
            ("share", "'1%'", "'2%'", "access_log.path = '/a'"),
            ("queue", "1", "2", "access_log.path = '/a'"),
        ],
    ),
    keys(
        "Audit",
        &["#top"],
        "audit.",
        &[
            ("directory", "'/a'", "'/b'", ""),
            ("when_full", "'drop'", "'block'", "audit.directory = '/a'"),
            ("queue", "1", "2", "audit.directory = '/a'"),
            ("rotate", "'1MiB'", "'2MiB'", "audit.directory = '/a'"),
            ("keep", "1", "2", "audit.directory = '/a'"),
            ("chain", "false", "true", "audit.directory = '/a'"),
            ("sync", "false", "true", "audit.directory = '/a'"),
        ],
    ),
    keys(
        "Identity",
        &["#top"],
        "identity.",
        &[
            ("id", "'spiffe://mesh/a'", "'spiffe://mesh/b'", "identity.files = '/a'"),
            ("files", "'/a'", "'/b'", "identity.id = 'spiffe://mesh/a'"),
        ],
    ),
    keys(
        "CaClient",
        &["#top"],
        "identity.ca.",
        &[
            (
                "addresses",
                "['10.0.0.5:1']",
                "['10.0.0.6:1']",
                "identity = { id = 'spiffe://mesh/a', ca = { KEY, roots = '/r', token = '/t' } }",
            ),
            (
                "roots",
                "'/a'",
                "'/b'",
                "identity = { id = 'spiffe://mesh/a', ca = { KEY, addresses = ['10.0.0.5:1'], token = '/t' } }",
            ),
            (
                "token",
                "'/a'",
                "'/b'",
                "identity = { id = 'spiffe://mesh/a', ca = { KEY, addresses = ['10.0.0.5:1'], roots = '/r' } }",
            ),
            (
                "refresh",
                "'1s'",
                "'2s'",
                "identity = { id = 'spiffe://mesh/a', ca = { KEY, addresses = ['10.0.0.5:1'], roots = '/r', token = '/t' } }",
            ),
        ],
    ),
    keys(
        "WorkloadApi",
        &["#top"],
        "identity.workload_api.",
        &[("socket", "'unix:/a'", "'unix:/b'", "identity.id = 'spiffe://mesh/a'")],
    ),
    keys(
        "Tls",
        &["#top"],
        "tls.",
        &[
            ("mode", "'strict'", "'disabled'", "identity = { id = 'spiffe://mesh/a', files = '/a' }"),
            ("handshake", "'1s'", "'2s'", ""),
            ("handshakes", "1", "2", ""),
        ],
    ),
];
