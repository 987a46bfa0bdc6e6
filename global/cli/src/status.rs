//! `weftctl status`: how far a revision has come.
use crate::{
    app::Session,
    args::{Format, Status},
    client::Client,
    exit::{Code, Failure},
    follow::{self, Ending},
    out,
};
use comfy_table::Cell;
use shared_api::{RevisionStatus, ZoneStatus};

pub async fn run(session: &Session, args: Status) -> Result<(), Failure> {
    let client = if args.watch { session.waiting_client()? } else { session.client()? };
    let revision = number(&client, &args.revision).await?;
    let ending = match args.watch {
        true => follow::follow(&client, &[revision], session.wait_for()).await?,
        false => Ending { seen: vec![follow::look(&client, revision).await?], limit: None },
    };
    let Some(status) = ending.seen.last() else {
        return Err(Failure::new(Code::Timeout, format!("nothing was learned of revision {revision}")));
    };
    match args.output {
        Format::Table => show(status)?,
        Format::Json => out::json(status)?,
        Format::Yaml => out::yaml(&serde_json::to_value(status).map_err(anyhow::Error::from)?)?,
    }
    ending.verdict_only()
}

/// The number that was asked for. Every revision knows the newest one; when there is any, there is the first.
async fn number(client: &Client, text: &str) -> Result<u64, Failure> {
    if text != "latest" {
        return text
            .parse()
            .map_err(|_| Failure::usage(format!("{text:?} is neither a revision's number nor latest")));
    }
    Ok(follow::look(client, 1).await?.current)
}

fn show(status: &RevisionStatus) -> Result<(), Failure> {
    let applied = match status.applied_at {
        Some(at) => format!("applied {}", at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true)),
        None => "applied long ago".to_owned(),
    };
    let newest = match status.current {
        current if current == status.revision => "the newest".to_owned(),
        current => format!("the newest is {current}"),
    };
    out::line(format_args!("revision {}, {applied}, {newest}", status.revision))?;
    if status.zones.is_empty() {
        return out::line("no enabled zone follows this control plane yet");
    }
    let header =
        ["ZONE", "STATE", "APPLIED", "TOUCHED", "ACKNOWLEDGED", "REFUSED", "PENDING", "APPLY TO ACK"];
    out::table(&header, status.zones.iter().map(row).collect())
}

fn row(zone: &ZoneStatus) -> Vec<Cell> {
    let state = match (zone.done, zone.refused.is_empty(), zone.online) {
        (true, true, true) => out::verdict("done", true),
        (true, true, false) => out::verdict("done, offline", true),
        (_, false, _) => out::verdict("refused", false),
        (false, true, true) => Cell::new("on its way"),
        (false, true, false) => out::verdict("offline", false),
    };
    let applied = match (zone.applied, zone.applied_at) {
        (true, Some(at)) => at.format("%H:%M:%S%.3f").to_string(),
        (true, None) => "yes".to_owned(),
        (false, _) => "no".to_owned(),
    };
    vec![
        Cell::new(&zone.zone),
        state,
        Cell::new(applied),
        Cell::new(zone.touched),
        Cell::new(zone.acknowledged),
        Cell::new(zone.refused.len()),
        Cell::new(zone.pending),
        Cell::new(zone.apply_to_ack_ms.map_or("-".to_owned(), follow::millis)),
    ]
}
