//! Istio's AuthorizationPolicy and RequestAuthentication become `[[authorization.policy]]` and
//! `[[jwt]]`.
//!
//! A policy that cannot be said here in full is left out as a whole: half of a policy allows or
//! denies something else. What is left out has a [`Remark`] with its line, and so has what was
//! understood but may mean something else here. Each policy that is written was read again as the
//! sidecar will read it.

mod yaml;

use std::collections::BTreeMap;
use std::fmt;
use std::fmt::Write as _;

use yaml::Node;

use crate::config;

/// The namespace whose policies are for the workloads of all, by Istio's default.
pub const ROOT_NAMESPACE: &str = "istio-system";

/// What to do about policies of several namespaces.
pub const WHICH: &str = "say by --namespace which of them the workload is in";

/// What is known of the workload that the policies are for.
#[derive(Debug, Clone, Default)]
pub struct ImportOptions {
    /// Its labels. Policies that select others are passed over; `None`: all are for it.
    pub labels: Option<BTreeMap<String, String>>,
    /// Its namespace. Policies of others are passed over, except those of Istio's root namespace,
    /// [`ROOT_NAMESPACE`]; `None`: that of the first policy that has one.
    pub namespace: Option<String>,
    /// The trust domain that Istio's alias `cluster.local` stands for; `None`: it stays.
    pub trust_domain: Option<String>,
}

/// What became of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Imported {
    /// Tables for the sidecar's configuration.
    pub toml: String,
    /// What was left out, and what to look at.
    pub remarks: Vec<Remark>,
    /// The namespace that the workload was taken to be in.
    pub namespace: Option<String>,
}

impl Imported {
    /// Whether everything is in it.
    pub fn is_whole(&self) -> bool {
        self.remarks.iter().all(|remark| !remark.left_out)
    }
}

/// Something to know about a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remark {
    /// The line, from 1.
    pub line: usize,
    /// Whether the policy around it is not in the result.
    pub left_out: bool,
    /// What there is to know.
    pub message: String,
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let left_out = if self.left_out { "left out: " } else { "" };
        write!(f, "{}: {left_out}{}", self.line, self.message)
    }
}

/// Why something cannot be said here.
type Outcome<T> = Result<T, Remark>;

/// That `node` cannot be said here.
fn cannot(node: Node<'_, '_>, message: impl Into<String>) -> Remark {
    Remark { line: node.line(), left_out: true, message: message.into() }
}

/// Translates a file, which may have many documents.
///
/// # Errors
/// If it is not YAML.
pub fn import(text: &str, options: &ImportOptions) -> Result<Imported, Remark> {
    let documents = yaml::load(text)?;
    let imported = Imported { namespace: options.namespace.clone(), ..Imported::default() };
    let mut importer = Importer { options, imported, names: BTreeMap::new() };
    for document in &documents {
        importer.document(Node(document), None);
    }
    Ok(importer.imported)
}

struct Importer<'o> {
    options: &'o ImportOptions,
    imported: Imported,
    /// How often each name was given.
    names: BTreeMap<String, usize>,
}

impl Importer<'_> {
    /// `of` is the kind that it has if it says none: those of a list of one kind do not.
    fn document(&mut self, document: Node<'_, '_>, of: Option<&str>) {
        if document.is_null() {
            return;
        }
        if let Err(remark) = self.resource(document, of) {
            self.imported.remarks.push(remark);
        }
    }

    fn resource(&mut self, document: Node<'_, '_>, of: Option<&str>) -> Outcome<()> {
        let (kind, word) = match (document.get("kind"), of) {
            (None, Some(of)) => (document, of),
            _ => {
                let kind = document.required("kind")?;
                (kind, kind.text()?)
            }
        };
        match word {
            "List" | "AuthorizationPolicyList" | "RequestAuthenticationList" | "PeerAuthenticationList" => {
                let of = word.strip_suffix("List").filter(|of| !of.is_empty());
                for item in document.required("items")?.list()? {
                    self.document(item, of);
                }
                return Ok(());
            }
            "AuthorizationPolicy" | "RequestAuthentication" | "PeerAuthentication" => {}
            other => {
                let name = document.get("metadata").and_then(|metadata| metadata.get("name"));
                let name = name.and_then(|name| name.scalar().ok()).unwrap_or_default();
                let message = format!("passed over: {other} {name:?} says nothing about who may call an app");
                self.imported.remarks.push(Remark { line: kind.line(), left_out: false, message });
                return Ok(());
            }
        }
        document.only(&["apiVersion", "kind", "metadata", "spec", "status"])?;
        let metadata = Metadata::of(document.required("metadata")?)?;
        if !self.is_near(kind, &metadata)? {
            return Ok(());
        }
        let spec = document.get("spec").filter(|spec| !spec.is_null());
        if let Some(spec) = spec
            && !self.selects(spec, &metadata)?
        {
            return Ok(());
        }
        let written = match word {
            "AuthorizationPolicy" => vec![self.policy(kind, &metadata, spec)?],
            "PeerAuthentication" => return self.mode(kind, &metadata, spec),
            _ => self.issuers(&metadata, spec)?,
        };
        for (node_line, table) in written {
            let stub = "[[authorization.provider]]\nname = 'NAME'\naddress = '127.0.0.1:1'\n";
            let provider =
                table.lines().find_map(|line| line.strip_prefix("provider = \"")?.strip_suffix('"'));
            let stub = provider.map_or_else(String::new, |name| stub.replace("NAME", name));
            let read = config::parse("", &format!("service = 'x'\n{stub}{table}"));
            if let Err(errors) = read {
                let message = errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
                return Err(Remark { line: node_line, left_out: true, message });
            }
            self.imported.toml += &table;
            self.imported.toml.push('\n');
        }
        Ok(())
    }

    /// Whether a policy is of the workload's namespace, or of the root namespace.
    fn is_near(&mut self, kind: Node<'_, '_>, metadata: &Metadata<'_>) -> Outcome<bool> {
        let Some(namespace) = metadata.namespace.filter(|namespace| *namespace != ROOT_NAMESPACE) else {
            return Ok(true);
        };
        let name = metadata.name;
        let own = self.imported.namespace.get_or_insert_with(|| namespace.to_owned());
        if namespace == own {
            return Ok(true);
        }
        if self.options.namespace.is_none() {
            let several = format!("{name} is of namespace {namespace}, and others are of {own}: {WHICH}");
            return Err(cannot(kind, several));
        }
        let message = format!("{name} is of namespace {namespace}, and not for this workload");
        self.imported.remarks.push(Remark { line: kind.line(), left_out: false, message });
        Ok(false)
    }

    /// Whether a policy is for the workload.
    fn selects(&mut self, spec: Node<'_, '_>, metadata: &Metadata<'_>) -> Outcome<bool> {
        for key in ["targetRef", "targetRefs"] {
            if let Some(target) = spec.get(key) {
                return Err(cannot(target, format!("`{key}` is for gateways and waypoints")));
            }
        }
        let Some(selector) = spec.get("selector").filter(|selector| !selector.is_null()) else {
            return Ok(true);
        };
        selector.only(&["matchLabels"])?;
        let Some(wanted) = selector.get("matchLabels") else { return Ok(true) };
        let mut fits = true;
        let mut shown = Vec::new();
        for (key, value) in wanted.entries()? {
            let (key, value) = (key.text()?, value.scalar()?);
            let own = self.options.labels.as_ref().map(|labels| labels.get(key));
            fits &= own.is_none_or(|own| own == Some(&value));
            shown.push(format!("{key}={value}"));
        }
        let selected = shown.join(", ");
        let message = match (&self.options.labels, fits) {
            (None, _) => {
                format!("{} is for workloads with {selected}; it was taken to be for this one", metadata.name)
            }
            (Some(_), false) => {
                format!("{} is for workloads with {selected}, and not for this one", metadata.name)
            }
            (Some(_), true) => return Ok(true),
        };
        self.imported.remarks.push(Remark { line: wanted.line(), left_out: false, message });
        Ok(fits)
    }

    /// A name that nothing else has.
    fn name(&mut self, metadata: &Metadata<'_>) -> String {
        let name = match metadata.namespace {
            Some(namespace) => format!("{namespace}/{}", metadata.name),
            None => metadata.name.to_owned(),
        };
        let count = self.names.entry(name.clone()).or_default();
        *count += 1;
        if *count == 1 { name } else { format!("{name}-{count}") }
    }

    fn policy(
        &mut self,
        kind: Node<'_, '_>,
        metadata: &Metadata<'_>,
        spec: Option<Node<'_, '_>>,
    ) -> Outcome<(usize, String)> {
        let mut table = format!("[[authorization.policy]]\nname = {}\n", quoted(&self.name(metadata)));
        let mut rules = Vec::new();
        if let Some(spec) = spec {
            spec.only(&["selector", "action", "provider", "rules"])?;
            if let Some(action) = spec.get("action") {
                let word = match action.text()? {
                    "ALLOW" => "allow",
                    "DENY" => "deny",
                    "AUDIT" => "audit",
                    "CUSTOM" => "custom",
                    other => return Err(cannot(action, format!("there is no action {other}"))),
                };
                writeln!(table, "action = \"{word}\"").expect("a string");
            }
            if let Some(provider) = spec.get("provider") {
                provider.only(&["name"])?;
                let name = provider.required("name")?;
                writeln!(table, "provider = {}", quoted(name.text()?)).expect("a string");
                let message = format!(
                    "describe the external authorizer {} in [[authorization.provider]]",
                    name.text()?
                );
                self.imported.remarks.push(Remark { line: name.line(), left_out: false, message });
            }
            for rule in spec.get("rules").map_or(Ok(Vec::new()), |rules| rules.list())? {
                rules.push(self.rule(rule, metadata)?);
            }
        }
        if metadata.dry_run {
            table += "dry_run = true\n";
        }
        table.extend(rules);
        Ok((kind.line(), table))
    }

    fn rule(&self, rule: Node<'_, '_>, metadata: &Metadata<'_>) -> Outcome<String> {
        let mut table = String::from("[[authorization.policy.rule]]\n");
        if rule.is_null() {
            return Ok(table);
        }
        rule.only(&["from", "to", "when"])?;
        for (part, inner, keys) in [("from", "source", SOURCE), ("to", "operation", OPERATION)] {
            let Some(list) = rule.get(part).filter(|list| !list.is_null()) else { continue };
            let mut entries = Vec::new();
            for entry in list.list()? {
                entry.only(&[inner])?;
                entries.push(self.entry(entry.required(inner)?, keys, metadata)?);
            }
            writeln!(table, "{part} = [{}]", entries.join(", ")).expect("a string");
        }
        let Some(when) = rule.get("when").filter(|when| !when.is_null()) else { return Ok(table) };
        let mut conditions = Vec::new();
        for condition in when.list()? {
            condition.only(&["key", "values", "notValues"])?;
            let key = condition.required("key")?;
            let mut parts = vec![format!("key = {}", quoted(key.text()?))];
            for (name, own) in [("values", "values"), ("notValues", "not_values")] {
                if let Some(values) = condition.get(name) {
                    let is_principal = key.text()? == "source.principal";
                    let values = match is_principal {
                        true => self.principals(values)?,
                        false => self.values(values, str::to_owned)?,
                    };
                    parts.push(format!("{own} = [{}]", values.join(", ")));
                }
            }
            conditions.push(format!("{{ {} }}", parts.join(", ")));
        }
        writeln!(table, "when = [{}]", conditions.join(", ")).expect("a string");
        Ok(table)
    }

    /// A source or an operation.
    fn entry(&self, entry: Node<'_, '_>, keys: &[(&str, &str)], metadata: &Metadata<'_>) -> Outcome<String> {
        let mut parts = Vec::new();
        for (key, values) in entry.entries()? {
            let Some((_, own)) = keys.iter().find(|(known, _)| key.text().ok() == Some(known)) else {
                return Err(cannot(key, format!("`{}` is not known here", key.text()?)));
            };
            let values = match *own {
                "ports" | "not_ports" => {
                    let port = |value: &Node<'_, '_>| {
                        let text = value.scalar()?;
                        text.parse::<u16>().map_err(|_| cannot(*value, format!("{text} is not a port")))
                    };
                    let ports: Outcome<Vec<_>> = values.list()?.iter().map(port).collect();
                    ports?.iter().map(ToString::to_string).collect()
                }
                "principals" | "not_principals" => self.principals(values)?,
                "service_accounts" | "not_service_accounts" => {
                    self.values(values, |text| match metadata.namespace {
                        Some(namespace) if !text.contains('/') => format!("{namespace}/{text}"),
                        _ => text.into(),
                    })?
                }
                _ => self.values(values, str::to_owned)?,
            };
            parts.push(format!("{own} = [{}]", values.join(", ")));
        }
        Ok(format!("{{ {} }}", parts.join(", ")))
    }

    fn values(&self, list: Node<'_, '_>, change: impl Fn(&str) -> String) -> Outcome<Vec<String>> {
        list.list()?.into_iter().map(|value| Ok(quoted(&change(&value.scalar()?)))).collect()
    }

    /// Principals as they are here.
    fn principals(&self, list: Node<'_, '_>) -> Outcome<Vec<String>> {
        for value in list.list()? {
            if value.scalar()?.starts_with("spiffe://") {
                let why = "Istio's principals have no `spiffe://`, so this matches nobody there, and would \
                           here: take it away if it should";
                return Err(cannot(value, why));
            }
        }
        self.values(list, |text| self.principal(text))
    }

    /// A principal in the mesh's own trust domain, for which Istio has an alias.
    fn principal(&self, text: &str) -> String {
        match (text.strip_prefix("cluster.local/"), &self.options.trust_domain) {
            (Some(rest), Some(trust_domain)) => format!("{trust_domain}/{rest}"),
            _ => text.to_owned(),
        }
    }

    /// Which callers need a certificate is not said by policies here.
    fn mode(
        &mut self,
        kind: Node<'_, '_>,
        metadata: &Metadata<'_>,
        spec: Option<Node<'_, '_>>,
    ) -> Outcome<()> {
        let get = |key| spec.and_then(|spec| spec.get(key)).filter(|found| !found.is_null());
        let name = metadata.name;
        if get("portLevelMtls").is_some() {
            return Err(cannot(kind, format!("PeerAuthentication {name:?}: write `tls` of each port")));
        }
        let mode = get("mtls").and_then(|mtls| mtls.get("mode"));
        let own = match mode.map(|mode| mode.text()).transpose()? {
            Some("STRICT") => "strict",
            Some("DISABLE") => "disabled",
            Some("PERMISSIVE" | "UNSET") | None => {
                let message = format!(
                    "PeerAuthentication {name:?} is not needed: `mode = \"permissive\"` of [tls] is the default"
                );
                self.imported.remarks.push(Remark { line: kind.line(), left_out: false, message });
                return Ok(());
            }
            Some(other) => return Err(cannot(kind, format!("there is no mode {other}"))),
        };
        Err(cannot(kind, format!("PeerAuthentication {name:?}: write `mode = \"{own}\"` into [tls] instead")))
    }

    fn issuers(
        &mut self,
        metadata: &Metadata<'_>,
        spec: Option<Node<'_, '_>>,
    ) -> Outcome<Vec<(usize, String)>> {
        let Some(spec) = spec else { return Ok(Vec::new()) };
        spec.only(&["selector", "jwtRules"])?;
        let rules = spec.get("jwtRules").map_or(Ok(Vec::new()), |rules| rules.list())?;
        rules.into_iter().map(|rule| Ok((rule.line(), self.issuer(rule, metadata)?))).collect()
    }

    fn issuer(&mut self, rule: Node<'_, '_>, metadata: &Metadata<'_>) -> Outcome<String> {
        rule.only(&[
            "issuer",
            "audiences",
            "jwksUri",
            "jwks_uri",
            "jwks",
            "fromHeaders",
            "fromParams",
            "outputPayloadToHeader",
            "outputClaimToHeaders",
            "forwardOriginalToken",
            "timeout",
        ])?;
        let mut table = format!("[[jwt]]\nname = {}\n", quoted(&self.name(metadata)));
        let mut line = |key: &str, value: String| writeln!(table, "{key} = {value}").expect("a string");
        line("issuer", quoted(rule.required("issuer")?.text()?));
        let list = |node: Node<'_, '_>| Ok(format!("[{}]", self.values(node, str::to_owned)?.join(", ")));
        if let Some(audiences) = rule.get("audiences") {
            // A list without anything in it is one that is not there, in Istio's encoding.
            if !audiences.list()?.is_empty() {
                line("audiences", list(audiences)?);
            }
        }
        let uri = rule.get("jwksUri").or_else(|| rule.get("jwks_uri"));
        let timeout = match rule.get("timeout") {
            Some(timeout) if uri.is_some() => format!(", timeout = {}", quoted(timeout.text()?)),
            _ => String::new(),
        };
        match (uri, rule.get("jwks")) {
            (Some(uri), _) => line("jwks", format!("{{ url = {}{timeout} }}", quoted(uri.text()?))),
            (None, Some(jwks)) => line("jwks", format!("{{ inline = {} }}", quoted(jwks.text()?))),
            (None, None) => {
                return Err(cannot(rule, "its keys are found by OpenID discovery: give `jwksUri` or `jwks`"));
            }
        }
        let (headers, params) = (rule.get("fromHeaders"), rule.get("fromParams"));
        if let Some(headers) = headers {
            let mut own = Vec::new();
            for header in headers.list()? {
                header.only(&["name", "prefix"])?;
                let name = quoted(header.required("name")?.text()?);
                let prefix =
                    header.get("prefix").map(|prefix| prefix.text()).transpose()?.unwrap_or_default();
                own.push(format!("{{ name = {name}, prefix = {} }}", quoted(prefix)));
            }
            line("from_headers", format!("[{}]", own.join(", ")));
        }
        match params {
            Some(params) => {
                if headers.is_none() {
                    line("from_headers", "[]".into());
                }
                line("from_params", list(params)?);
            }
            // Where Istio looks if nobody says where.
            None if headers.is_none() => line("from_params", "[\"access_token\"]".into()),
            None => {}
        }
        if let Some(forward) = rule.get("forwardOriginalToken") {
            line("forward", forward.flag()?.to_string());
        }
        if let Some(header) = rule.get("outputPayloadToHeader") {
            line("payload_header", quoted(header.text()?));
        }
        if let Some(claims) = rule.get("outputClaimToHeaders") {
            let mut own = Vec::new();
            for claim in claims.list()? {
                claim.only(&["header", "claim"])?;
                let (header, claim) = (claim.required("header")?.text()?, claim.required("claim")?.text()?);
                own.push(format!("{} = {}", quoted(header), quoted(claim)));
            }
            line("claims_to_headers", format!("{{ {} }}", own.join(", ")));
        }
        Ok(table)
    }
}

const SOURCE: &[(&str, &str)] = &[
    ("principals", "principals"),
    ("notPrincipals", "not_principals"),
    ("requestPrincipals", "request_principals"),
    ("notRequestPrincipals", "not_request_principals"),
    ("namespaces", "namespaces"),
    ("notNamespaces", "not_namespaces"),
    ("serviceAccounts", "service_accounts"),
    ("notServiceAccounts", "not_service_accounts"),
    ("ipBlocks", "ip_blocks"),
    ("notIpBlocks", "not_ip_blocks"),
    ("remoteIpBlocks", "remote_ip_blocks"),
    ("notRemoteIpBlocks", "not_remote_ip_blocks"),
];

const OPERATION: &[(&str, &str)] = &[
    ("hosts", "hosts"),
    ("notHosts", "not_hosts"),
    ("ports", "ports"),
    ("notPorts", "not_ports"),
    ("methods", "methods"),
    ("notMethods", "not_methods"),
    ("paths", "paths"),
    ("notPaths", "not_paths"),
];

/// What counts of a resource's metadata.
struct Metadata<'d> {
    name: &'d str,
    namespace: Option<&'d str>,
    dry_run: bool,
}

impl<'d> Metadata<'d> {
    fn of(node: Node<'d, 'd>) -> Outcome<Self> {
        let annotations = node.get("annotations").filter(|annotations| !annotations.is_null());
        let dry_run = annotations.and_then(|annotations| annotations.get("istio.io/dry-run"));
        let dry_run = dry_run.map(is_true).transpose()?.unwrap_or(false);
        Ok(Metadata {
            name: node.required("name")?.text()?,
            namespace: node.get("namespace").map(|namespace| namespace.text()).transpose()?,
            dry_run,
        })
    }
}

/// What Istio reads as true or false: the words of Go's `strconv.ParseBool`.
fn is_true(node: Node<'_, '_>) -> Outcome<bool> {
    match node.scalar()?.as_str() {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        other => Err(cannot(node, format!("{other:?} is neither true nor false"))),
    }
}

/// A text as TOML writes it.
fn quoted(text: &str) -> String {
    toml::Value::from(text).to_string()
}

#[cfg(test)]
mod tests;
