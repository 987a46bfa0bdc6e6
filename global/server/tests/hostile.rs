//! A zone that means ill: it has a good token and a good certificate, and says whatever it likes. Its own link suffers for
//! it; the leader, its term and the other zones do not.
mod house;

use house::{Dialled, House, Papers, Zone, enrolment, hello, within, zone_id};
use proto::link::{
    Beat, CallReply, Enrolment, FromZone, Hello, Inventory, Progress, RaftReply, RaftRequest,
    RevisionProgress, Submit, ToZone, TokenAnswer, TokenWanted, from_zone::Kind as Up, submit::Change,
    to_zone::Kind as Down,
};
use serde_json::json;
use shared_raft::wire::{self, AppendEntriesRequest, AppendEntriesResponse};
use std::time::{Duration, Instant};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};

/// A global with an honest zone, `west`, and what a hostile one, `east`, needs.
struct Scene {
    house: House,
    west: Zone,
    papers: Papers,
    term: u64,
    written: u64,
    _dirs: (TempDir, TempDir),
}

impl Scene {
    async fn set() -> Scene {
        let dirs = (TempDir::new().expect("a directory"), TempDir::new().expect("a directory"));
        let house = House::start(dirs.0.path()).await;
        let west =
            Zone::follow(&house, dirs.1.path(), "west", &house.zone_token("west", &["cp"]).await).await;
        let token = house.zone_token("east", &["cp"]).await;
        let papers = house.enrol(Some(&token), None, enrolment(&hello("east", 1))).await.expect("enrolled");
        let term = term(&house).await;
        Scene { house, west, papers, term, written: 0, _dirs: dirs }
    }

    async fn open(&self) -> Dialled {
        self.house.open(Some(&self.papers), hello("east", 1)).await.expect("a link")
    }

    /// The leader leads on in its term, writes are stored, and the other zone has them.
    async fn goes_on(&mut self) {
        self.written += 1;
        let timeout = json!({"type": "MeshTimeout", "mesh": "default", "name": "t", "spec": {
            "targetRef": {"kind": "Mesh"},
            "to": [{"targetRef": {"kind": "Mesh"}, "default": {"http": {"requestTimeout": format!("{}s", self.written)}}}]}});
        let (status, reply) = self.house.put("/meshes/default/meshtimeouts/t", timeout).await;
        assert!(status == 200 || status == 201, "{status} {reply}");
        self.west.holds(reply["revision"].as_u64().expect("a revision")).await;
        assert_eq!(term(&self.house).await, self.term);
        assert!(!self.west.pump.is_finished(), "the honest zone has kept its link");
    }

    async fn end(self) {
        self.west.leave().await;
        self.house.stop().await;
    }
}

async fn term(house: &House) -> u64 {
    let (_, status) = house.get("/_cluster").await;
    assert_eq!(status["nodes"][0]["role"], "leader", "{status}");
    status["nodes"][0]["term"].as_u64().expect("a term")
}

/// Why global ended the link.
async fn ended(down: &mut Streaming<ToZone>) -> String {
    within(async {
        loop {
            match down.message().await {
                Ok(Some(_)) => {}
                Ok(None) => return String::new(),
                Err(status) => return status.message().to_owned(),
            }
        }
    })
    .await
}

/// The next request of the leader.
async fn asked(down: &mut Streaming<ToZone>) -> RaftRequest {
    within(async {
        loop {
            let message = down.message().await.expect("an open link").expect("a message");
            if let Some(Down::Raft(request)) = message.kind {
                return request;
            }
        }
    })
    .await
}

async fn say(up: &mpsc::Sender<FromZone>, kind: Up) {
    // A link that has ended takes nothing more; its other direction tells why.
    let _ = up.send(FromZone { kind: Some(kind) }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_higher_vote_costs_the_zone_its_link_and_nobody_else_anything() {
    let mut scene = Scene::set().await;
    for round in 1..=3 {
        let Dialled { up, mut down, .. } = scene.open().await;
        let request = asked(&mut down).await;
        let mut vote = wire::decode::<AppendEntriesRequest>(&request.body).expect("an append").vote;
        vote.leader_id.term += 1_000 * round;
        let body = wire::encode(&AppendEntriesResponse::HigherVote(vote)).into();
        say(&up, Up::Raft(RaftReply { id: request.id, body, error: String::new() })).await;
        let reason = ended(&mut down).await;
        assert!(reason.contains("claims a vote"), "{reason}");
        scene.goes_on().await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn replays_and_answers_that_nobody_asked_for_change_nothing() {
    let mut scene = Scene::set().await;
    let Dialled { up, mut down, .. } = scene.open().await;
    let request = asked(&mut down).await;
    let success: bytes::Bytes = wire::encode(&AppendEntriesResponse::Success).into();
    // A lie: it has stored nothing. Then the same over and over, and answers to questions of another day.
    for id in std::iter::repeat_n(request.id, 500).chain(10_000..10_500).chain([u64::MAX]) {
        say(&up, Up::Raft(RaftReply { id, body: success.clone(), error: String::new() })).await;
    }
    for id in 0..500 {
        say(&up, Up::Reply(CallReply { id, status: 200, ..CallReply::default() })).await;
    }
    let future = RevisionProgress { revision: u64::MAX, touched: 9, ..RevisionProgress::default() };
    say(&up, Up::Progress(Progress { revisions: vec![future] })).await;
    say(&up, Up::Beat(Beat { revision: u64::MAX })).await;
    scene.goes_on().await;
    assert_eq!(scene.house.get(&format!("/_revisions/{}", u64::MAX)).await.0, 404);
    // What no honest replica says ends the link.
    let request = asked(&mut down).await;
    say(&up, Up::Raft(RaftReply { id: request.id, body: vec![255; 64].into(), error: String::new() })).await;
    assert!(!ended(&mut down).await.is_empty());
    scene.goes_on().await;
    let Dialled { up, mut down, .. } = scene.open().await;
    let gap = Inventory { sequence: 7, ..Inventory::default() };
    say(&up, Up::Inventory(gap)).await;
    assert!(
        ended(&mut down).await.contains("inventory"),
        "an inventory that does not begin at the beginning"
    );
    scene.goes_on().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_comes_under_the_name_of_another() {
    let mut scene = Scene::set().await;
    let west = scene.west.learner.identity().node_id;
    let house = &scene.house;
    let refused = async |papers: Option<&Papers>, hello: Hello| {
        house.open(papers, hello).await.err().expect("refused").message().to_owned()
    };
    let own = Some(&scene.papers);
    for (papers, hello, wanted) in [
        (None, hello("east", 1), "a certificate of a zone is needed"),
        (own, hello("west", 1), "the certificate is for zone \"east\""),
        (own, Hello { zone_id: zone_id("west"), ..hello("east", 1) }, "the certificate is for zone \"east\""),
        (own, Hello { node_id: west, ..hello("east", 1) }, "belongs to zone \"west\""),
        (own, Hello { node_id: 7, ..hello("east", 1) }, "not the id of a zone's replica"),
        (own, Hello { instance: "x".repeat(10_000), ..hello("east", 1) }, "more than 256 bytes"),
    ] {
        let reason = refused(papers, hello).await;
        assert!(reason.contains(wanted), "{reason:?} should say {wanted:?}");
    }
    // Nor does its certificate get it another's, and one of another authority gets it nothing.
    let other = enrolment(&hello("west", 1));
    let status = house.enrol(None, own, other.clone()).await.err().expect("refused");
    assert!(status.message().contains("zone id"), "{status}");
    let stolen = Enrolment { zone_id: zone_id("east"), ..other };
    let status = house.enrol(None, own, stolen).await.err().expect("refused");
    assert!(status.message().contains("not for \"west\""), "{status}");
    let huge = Enrolment { version: "x".repeat(1 << 20), ..enrolment(&hello("east", 1)) };
    assert_eq!(house.enrol(None, own, huge).await.err().expect("refused").code(), Code::InvalidArgument);
    let authority = shared_identity::ca::Authority::generate(
        "weft control plane",
        None,
        shared_node::time::now(),
        Duration::from_secs(3600),
    )
    .expect("an authority");
    let (key_pem, csr) = shared_identity::ca::request_key().expect("a key");
    let (_, about) = house.get("/").await;
    let cluster = about["clusterId"].as_str().expect("an id");
    let uris = [
        format!("weft://{cluster}/zone/east/{}", zone_id("east")),
        format!("weft://{cluster}/zone-token/31/31"),
    ];
    let chain = authority.issue_requested_client(
        &csr,
        "weft zone",
        &uris,
        shared_node::time::now(),
        Duration::from_secs(60),
    );
    let forged = Papers { chain_pem: chain.expect("issued"), key_pem };
    assert!(house.open(Some(&forged), hello("east", 1)).await.is_err());
    scene.goes_on().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn floods_end_at_the_door() {
    let mut scene = Scene::set().await;
    // Messages.
    let Dialled { up, mut down, .. } = scene.open().await;
    let flood = tokio::spawn(async move {
        while up.send(FromZone { kind: Some(Up::Beat(Beat { revision: 1 })) }).await.is_ok() {}
    });
    let reason = ended(&mut down).await;
    assert!(reason.contains("messages between two beats"), "{reason}");
    flood.abort();
    scene.goes_on().await;

    // One that is too large for anybody.
    let Dialled { up, mut down, .. } = scene.open().await;
    let change = Some(Change::Put(vec![b' '; 17 << 20].into()));
    say(&up, Up::Submit(Submit { id: 1, change })).await;
    assert!(!ended(&mut down).await.is_empty());
    scene.goes_on().await;

    // Streams that say nothing, all on one connection.
    let client = scene.house.link(Some(&scene.papers)).await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        let (up, messages) = mpsc::channel::<FromZone>(1);
        let mut client = client.clone();
        let opening = tokio::spawn(async move { client.follow(ReceiverStream::new(messages)).await.err() });
        silent.push((up, opening));
    }
    let many = within(async {
        loop {
            let finished = silent.iter().filter(|(_, opening)| opening.is_finished()).count();
            if finished > 150 {
                return finished;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    assert!(many < 200, "those that are let wait are some");
    scene.goes_on().await;
    for (_, opening) in silent {
        if opening.is_finished() {
            let status = opening.await.expect("no panic").expect("refused");
            assert_eq!(status.code(), Code::ResourceExhausted, "{status}");
        } else {
            opening.abort();
        }
    }

    // Replicas without end.
    let mut links = Vec::new();
    let mut refusal = None;
    for number in 100..120 {
        match scene.house.open(Some(&scene.papers), hello("east", number)).await {
            Ok(link) => links.push(link),
            Err(status) => refusal = Some(status),
        }
    }
    let refusal = refusal.expect("not all are let in");
    assert!(refusal.code() == Code::ResourceExhausted && links.len() <= 8, "{refusal} {}", links.len());
    scene.goes_on().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_by_itself_gets_no_token_and_what_it_asks_is_bounded() {
    let mut scene = Scene::set().await;
    let house = &scene.house;
    let of_zone = house.zone_token("east", &["cp"]).await;
    let admin = std::fs::read_to_string(house.dir.join("admin-token")).expect("a token");
    let wanted = json!({"mesh": "default", "name": "web-1"}).to_string();
    let asked = |user: Option<&str>, kind: &str, body: &str| {
        let body = body.to_owned().into();
        let mut request = tonic::Request::new(TokenWanted { kind: kind.to_owned(), body });
        if let Some(user) = user {
            let bearer = format!("Bearer {user}").parse().expect("a header");
            request.metadata_mut().insert("authorization", bearer);
        }
        request
    };
    let mut client = house.link(Some(&scene.papers)).await;
    for user in [None, Some(of_zone.as_str()), Some("rubbish"), Some("")] {
        for kind in ["dataplane", "zone", "user"] {
            let answer = client.issue(asked(user, kind, &wanted)).await.expect("an answer").into_inner();
            assert_eq!(answer.status, 401, "{user:?} {kind}");
        }
    }
    let answer = client.issue(asked(Some(&admin), "dataplane", &wanted)).await.expect("an answer");
    let TokenAnswer { status, body, .. } = answer.into_inner();
    assert!(status == 200 && body.split(|byte| *byte == b'.').count() == 3);
    for (kind, body) in [("../meshes", wanted.as_str()), ("", &wanted), ("dataplane", &"x".repeat(100_000))] {
        let status = client.issue(asked(Some(&admin), kind, body)).await.expect_err("refused");
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let mut nobody = house.link(None).await;
    let status = nobody.issue(asked(Some(&admin), "dataplane", &wanted)).await.expect_err("refused");
    assert_eq!(status.code(), Code::Unauthenticated, "{status}");

    // More than a script would ask for.
    let flood = (0..1_500).map(|_| {
        let (mut client, request) = (client.clone(), asked(None, "dataplane", &wanted));
        async move { client.issue(request).await.err().map(|status| status.code()) }
    });
    let refused = within(futures::future::join_all(flood)).await;
    let refused: Vec<Code> = refused.into_iter().flatten().collect();
    assert!(
        !refused.is_empty() && refused.iter().all(|code| *code == Code::ResourceExhausted),
        "{refused:?}"
    );
    scene.goes_on().await;
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_link_that_went_silent_is_found_within_two_beats() {
    let mut scene = Scene::set().await;
    let Dialled { up, mut down, .. } = scene.open().await;
    for _ in 0..3 {
        say(&up, Up::Beat(Beat { revision: 1 })).await;
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    let last = Instant::now();
    let reason = ended(&mut down).await;
    assert!(reason.contains("no beat"), "{reason}");
    // The first beat is missed after one second; some time is for a machine that does much else.
    assert!(last.elapsed() < Duration::from_millis(3_800), "{:?}", last.elapsed());
    scene
        .house
        .until("/zones/east/_overview", |zone| {
            zone["zoneInsight"]["subscriptions"][0]["disconnectTime"].is_string()
        })
        .await;
    scene.goes_on().await;
    scene.end().await;
}
