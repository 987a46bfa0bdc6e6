//! `weftctl config`: the servers that are remembered.
use crate::{
    app::Session,
    args::Config,
    client::{self, ANSWER_WITHIN, Client},
    exit::{Code, Failure},
    out,
    servers::{self, Server, Servers},
};
use anyhow::Context;
use comfy_table::Cell;
use serde_json::Value;
use std::path::{Path, PathBuf};

pub async fn run(session: &Session, args: Config) -> Result<(), Failure> {
    let path = servers::file(&session.global)?;
    let mut servers = Servers::read(&path)?;
    match args {
        Config::Add { name, address, make_current, overwrite, no_check } => {
            client::addresses(&address)?;
            if servers.find(&name).is_some() && !overwrite {
                let message = format!("a server is called {name:?} already: give --overwrite to replace it");
                return Err(Failure::new(Code::Error, message));
            }
            let server = Server {
                name: name.clone(),
                address: address.trim_end_matches('/').to_owned(),
                ca_cert_file: absolute(session.global.ca_cert_file.as_deref())?,
                token_file: absolute(session.global.token_file.as_deref())?,
            };
            if !no_check {
                check(session, &server).await?;
            }
            match servers.servers.iter_mut().find(|kept| kept.name == name) {
                Some(kept) => *kept = server,
                None => servers.servers.push(server),
            }
            if make_current || servers.current.is_none() {
                servers.current = Some(name.clone());
            }
            servers.write(&path)?;
            let current =
                if servers.current.as_ref() == Some(&name) { ", it is the current one" } else { "" };
            out::line(format_args!("server {name} added{current}"))
        }
        Config::List => {
            let rows = servers.servers.iter().map(|server| {
                let current = if servers.current.as_ref() == Some(&server.name) { "*" } else { "" };
                let path = |path: &Option<PathBuf>| {
                    path.as_ref().map_or("-".to_owned(), |path| path.display().to_string())
                };
                vec![
                    Cell::new(current),
                    Cell::new(&server.name),
                    Cell::new(&server.address),
                    Cell::new(path(&server.ca_cert_file)),
                    Cell::new(path(&server.token_file)),
                ]
            });
            match servers.servers.is_empty() {
                true => {
                    out::line(format_args!("no server is kept: commands go to {}", servers::DEFAULT_ADDRESS))
                }
                false => out::table(&["", "NAME", "ADDRESS", "CA CERTIFICATE", "TOKEN"], rows.collect()),
            }
        }
        Config::Use { name } => {
            servers.get(&name)?;
            servers.current = Some(name.clone());
            servers.write(&path)?;
            out::line(format_args!("server {name} is the current one"))
        }
        Config::Remove { name } => {
            servers.get(&name)?;
            servers.servers.retain(|server| server.name != name);
            let was_current = servers.current.as_ref() == Some(&name);
            if was_current {
                servers.current = None;
            }
            servers.write(&path)?;
            let rest = if was_current {
                ", it was the current one: choose another with `weftctl config use`"
            } else {
                ""
            };
            out::line(format_args!("server {name} removed{rest}"))
        }
        Config::View => {
            let yaml = serde_saphyr::to_string(&servers).map_err(anyhow::Error::from)?;
            out::text(&yaml)
        }
    }
}

/// Paths are kept absolute: the next call may come from another directory.
fn absolute(path: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    let told = |path: &Path| format!("cannot find {}", path.display());
    path.map(|path| path.canonicalize().with_context(|| told(path))).transpose()
}

/// A server that answers, trusts the token, and is of the right kind is remembered without a doubt.
async fn check(session: &Session, server: &Server) -> Result<(), Failure> {
    let asked = async {
        let client = Client::new(server, session.global.timeout.unwrap_or(ANSWER_WITHIN))?;
        let about: Value = client.read(&[]).await?;
        anyhow::ensure!(about["product"].is_string(), "{} is not a control plane", server.address);
        if server.token_file.is_some() {
            client.read::<Value>(&["who-am-i"]).await?;
        }
        anyhow::Ok(())
    };
    asked
        .await
        .map_err(|error| Failure::new(Code::Error, format!("{error:#} (--no-check adds it all the same)")))
}
