//! How long one cycle of offers takes: what a cluster puts up is taken in, and who waits is placed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use engine::mesos::matching::{Pool, Queue, place};
use engine::mesos::place::AgentUrl;
use engine::mesos::resources::{Amount, Attribute, AttributeValue, Demand, Offer, Resource, Thousandths};
use engine::{Constraint, Operator};
use scheduler::ids::TaskId;
use serde_json::json;

use crate::Bench;
use crate::table::{Line, Target};

const AGENTS: u64 = 1000;
const RUNS: u64 = 10_000;
/// Longest cycle, in milliseconds.
const TARGET: f64 = 50.0;
/// Cycles of which the middle one counts.
const CYCLES: usize = 11;

pub(crate) fn cycles(bench: &mut Bench) -> anyhow::Result<()> {
    for (what, kinds, cpus) in [
        ("of 100 jobs, all placed", 100, 100),
        ("of 10,000 jobs that differ, all placed", RUNS, 100),
        ("of 10,000 jobs that differ, most without room", RUNS, 8000),
        ("of 10,000 jobs that differ, none with room", RUNS, 60_000),
    ] {
        let mut times = Vec::new();
        let mut placed = 0;
        for _ in 0..CYCLES {
            let mut queue = queue(kinds, cpus)?;
            let offers: Vec<_> = (0..AGENTS).map(offer).collect();
            let began = Instant::now();
            let mut pool = Pool::default();
            offers.into_iter().for_each(|offer| pool.insert(offer));
            placed = place(&mut pool, &mut queue).len();
            times.push(began.elapsed());
        }
        times.sort();
        let what = format!("mesos: one cycle, {AGENTS} agents, {RUNS} runs {what} ({placed})");
        bench.tell(Line::new(what, times[CYCLES / 2].as_secs_f64() * 1000.0, "ms", Target::AtMost(TARGET)));
    }
    Ok(())
}

/// An agent of 4 to 35 processors, of one of ten racks.
fn offer(n: u64) -> Offer {
    let cpus = 4 + n * 7 % 32;
    let of = |name: &str, amount: u64| Resource {
        name: name.into(),
        amount: Amount::Scalar(Thousandths(amount * 1000)),
        role: Resource::ANYONE.into(),
        raw: Arc::new(json!({"name": name, "type": "SCALAR", "allocation_info": {"role": "*"}})),
        revocable: false,
        shared: false,
    };
    let rack = AttributeValue::Text(format!("r{}", n % 10));
    Offer {
        id: format!("offer-{n}"),
        agent: format!("agent-{n}"),
        hostname: format!("agent-{n}.example.org"),
        url: AgentUrl { tls: false, host: format!("agent-{n}.example.org"), port: 5051 },
        role: Resource::ANYONE.into(),
        resources: vec![of("cpus", cpus), of("mem", cpus * 4096), of("disk", 100_000)],
        attributes: vec![Attribute { name: "rack".into(), value: rack }],
        received: Duration::ZERO,
    }
}

/// Runs of so many kinds, which ask for about so many thousandths of a processor; every third for a rack.
fn queue(kinds: u64, cpus: u64) -> anyhow::Result<Queue> {
    let mut queue = Queue::default();
    for n in 0..RUNS {
        let kind = n % kinds;
        let rack = Constraint {
            attribute: "rack".into(),
            operator: Operator::Like,
            value: format!("r[{}]", kind % 10),
        };
        let demand = Demand {
            cpus: Thousandths(cpus + kind),
            mem: Thousandths((128 + kind % 64) * 1000),
            disk: Thousandths(256_000),
            constraints: Vec::from_iter(kind.is_multiple_of(3).then_some(rack)),
        };
        let task = TaskId::parse(&format!("job-{n}")).ok_or_else(|| anyhow::anyhow!("no task id"))?;
        queue.push(n, task, demand)?;
    }
    Ok(queue)
}
