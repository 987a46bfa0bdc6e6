//! The servers that a person talks to, and the file that remembers them.
use crate::args::Global;
use anyhow::{Context, anyhow, bail};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

/// Where a control plane on this machine listens.
pub const DEFAULT_ADDRESS: &str = "http://127.0.0.1:5681";

/// A server: where it is, who vouches for it, and who we are there. Secrets stay in their own files.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Server {
    pub name: String,
    pub address: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_cert_file: Option<PathBuf>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
}

/// What the file holds.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Servers {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub current: Option<String>,
    #[serde(default)]
    pub servers: Vec<Server>,
}

impl Servers {
    /// Reads the file; one that is not there yet is empty.
    pub fn read(path: &Path) -> anyhow::Result<Servers> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Servers::default()),
            Err(error) => bail!("cannot read {}: {error}", path.display()),
        };
        if text.trim().is_empty() {
            return Ok(Servers::default());
        }
        serde_saphyr::from_str(&text).map_err(|error| {
            let text = error.to_string();
            let first = text.lines().next().unwrap_or("cannot be parsed");
            anyhow!("{} is not a file of servers: {}", path.display(), first.trim_start_matches("error: "))
        })
    }

    /// Writes the file anew, readable by its owner only, so that a reader sees the old or the new one.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let text = serde_saphyr::to_string(self).context("cannot write the servers as YAML")?;
        let told = || format!("cannot write {}", path.display());
        if let Some(directory) = path.parent().filter(|directory| !directory.as_os_str().is_empty()) {
            fs::create_dir_all(directory).with_context(told)?;
        }
        let mut next = path.as_os_str().to_owned();
        next.push(".next");
        let next = PathBuf::from(next);
        // One that a killed run left behind may have another mode.
        let _ = fs::remove_file(&next);
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&next).with_context(told)?;
        file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).with_context(told)?;
        fs::rename(&next, path).with_context(told)
    }

    pub fn find(&self, name: &str) -> Option<&Server> {
        self.servers.iter().find(|server| server.name == name)
    }

    fn known(&self) -> String {
        let names: Vec<&str> = self.servers.iter().map(|server| server.name.as_str()).collect();
        if names.is_empty() {
            "none is kept yet".to_owned()
        } else {
            format!("known are {}", names.join(", "))
        }
    }

    pub fn get(&self, name: &str) -> anyhow::Result<&Server> {
        self.find(name).ok_or_else(|| anyhow!("no server is called {name:?}: {}", self.known()))
    }
}

/// The file of servers: the flag's or the environment's, else in the home directory.
pub fn file(global: &Global) -> anyhow::Result<PathBuf> {
    match (&global.config, dirs::home_dir()) {
        (Some(path), _) => Ok(path.clone()),
        (None, Some(home)) => Ok(home.join(".weft/config.yaml")),
        (None, None) => bail!("there is no home directory for the file of servers: give --config"),
    }
}

/// The server of this call: an ad hoc address, else the named one, else the environment's, else the current one, else
/// this machine's. Flags for certificate and token count above what is kept.
pub fn choose(global: &Global) -> anyhow::Result<Server> {
    let environment = std::env::var("WEFT_SERVER").ok().filter(|address| !address.is_empty());
    choose_with(global, environment)
}

fn choose_with(global: &Global, environment: Option<String>) -> anyhow::Result<Server> {
    let ad_hoc = global.server.clone().or(environment.filter(|_| global.context.is_none()));
    let mut server = match (ad_hoc, &global.context) {
        (Some(address), _) => Server { address, ..Server::default() },
        (None, context) => {
            let servers = Servers::read(&file(global)?)?;
            match context.as_ref().or(servers.current.as_ref()) {
                Some(name) => servers.get(name)?.clone(),
                None => Server { address: DEFAULT_ADDRESS.to_owned(), ..Server::default() },
            }
        }
    };
    if global.ca_cert_file.is_some() {
        server.ca_cert_file.clone_from(&global.ca_cert_file);
    }
    if global.token_file.is_some() {
        server.token_file.clone_from(&global.token_file);
    }
    Ok(server)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn server(name: &str) -> Server {
        Server { name: name.into(), address: format!("https://{name}:5682"), ..Server::default() }
    }

    fn kept(servers: &Servers) -> (tempfile::TempDir, Global) {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("deep/config.yaml");
        servers.write(&path).expect("written");
        (directory, Global { config: Some(path), ..Global::default() })
    }

    #[test]
    fn what_is_written_is_read_again_and_is_private() {
        let servers = Servers {
            current: Some("b".into()),
            servers: vec![server("a"), Server { token_file: Some("/t".into()), ..server("b") }],
        };
        let (_directory, global) = kept(&servers);
        let path = file(&global).expect("a path");
        assert_eq!(Servers::read(&path).expect("read"), servers);
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        servers.write(&path).expect("written over");
    }

    #[test]
    fn a_flag_counts_above_the_current_server() {
        let (_directory, mut global) =
            kept(&Servers { current: Some("a".into()), servers: vec![server("a"), server("b")] });
        assert_eq!(choose_with(&global, None).expect("current").address, "https://a:5682");
        global.context = Some("b".into());
        global.ca_cert_file = Some("/ca".into());
        let chosen = choose_with(&global, None).expect("named");
        assert_eq!((chosen.address.as_str(), chosen.ca_cert_file), ("https://b:5682", Some("/ca".into())));
        global.context = Some("c".into());
        let error = choose_with(&global, None).expect_err("unknown").to_string();
        assert_eq!(error, "no server is called \"c\": known are a, b");
        global.context = Some("b".into());
        let environment = || Some("http://127.0.0.1:2".to_owned());
        assert_eq!(choose_with(&global, environment()).expect("the flag").address, "https://b:5682");
        global.context = None;
        assert_eq!(
            choose_with(&global, environment()).expect("the environment").address,
            "http://127.0.0.1:2"
        );
        global.server = Some("http://127.0.0.1:1".into());
        assert_eq!(choose_with(&global, None).expect("ad hoc").address, "http://127.0.0.1:1");
    }

    #[test]
    fn without_a_file_this_machine_is_meant() {
        let global = Global { config: Some("/nowhere/at/all.yaml".into()), ..Global::default() };
        assert_eq!(choose_with(&global, None).expect("the default").address, DEFAULT_ADDRESS);
    }

    #[test]
    fn a_file_with_unknown_fields_is_refused() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("c.yaml");
        fs::write(&path, "servers: []\nskipVerify: true\n").expect("written");
        let error = Servers::read(&path).expect_err("unknown field").to_string();
        assert!(error.contains("is not a file of servers") && error.contains("skipVerify"), "{error}");
    }
}
