//! A store in PostgreSQL is removed at once and while nobody leads, and its schema stays with what others have in it.
#![cfg(feature = "postgres")]

use scheduler::ids::Seq;
use scheduler::state::{Change, Meta};
use store::postgres::purge::{Remains, Tables};
use store::postgres::{PostgresOptions, open};
use store::{Candidate, Store, samples};

#[path = "../testing/postgresd.rs"]
mod postgresd;
#[tokio::test(flavor = "multi_thread")]
async fn it_is_removed_while_nobody_leads_and_can_be_made_anew() {
    let Some(server) = postgresd::shared_or_skip("store-postgres-purge") else { return };
    let options = PostgresOptions { schema: "purged".into(), ..PostgresOptions::new(&server) };
    let tables = Tables::new(&options).expect("they can be meant");
    assert_eq!(tables.look().await.expect("it answers"), Remains::default());
    tables.remove().await.expect("nothing is there");
    let candidate =
        Candidate { node: "a".into(), addresses: vec!["a:4400".into()], pid: 1, version: "0".into() };
    for _ in 0..2 {
        let store = open(&options).expect("they can be meant");
        let term = store.begin_term(&candidate).await.expect("it can lead");
        let note = Change::Meta(Meta { engine_note: Some("f-1".into()), ..Meta::default() });
        let changes = [Change::PutJob(samples::job(1).into()), note];
        store.commit(term.epoch, Seq(term.seq.0 + 1), &changes).await.expect("it leads");
        let (there, jobs, note) = (true, 1, Some("f-1".to_owned()));
        let leads = Some("a:4400".to_owned());
        assert_eq!(
            tables.look().await.expect("it answers"),
            Remains { there, jobs, note: note.clone(), leads }
        );
        let refused = tables.remove().await.expect_err("somebody leads").to_string();
        assert!(refused.contains("somebody leads"), "{refused}");
        store.resign().await;
        assert_eq!(tables.look().await.expect("it answers"), Remains { there, jobs, note, leads: None });
        tables.remove().await.expect("nobody leads");
        assert_eq!(tables.look().await.expect("it answers"), Remains::default());
    }
}
