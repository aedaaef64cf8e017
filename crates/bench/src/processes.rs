//! Launches of real processes by the local engine, beside a bare loop over `posix_spawn`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use engine::local::{LocalEngine, LocalOptions};
use engine::{Engine, Known, Launch, Readiness, TaskSpec, since_boot};
use scheduler::ids::{Cause, Epoch, JobName, JobUid, RunKey, TaskId};

use super::Bench;
use super::table::{Line, Target};

const PROGRAM: &str = "/bin/true";
const AT_ONCE: usize = 64;
const TIME: Duration = Duration::from_secs(8);

pub(crate) async fn rate(bench: &mut Bench) -> anyhow::Result<()> {
    let dir = bench.folder("engine")?;
    // Before and after, because a busy machine changes its mind.
    let bare = || engine::yardstick::spawn_rate(Path::new(PROGRAM), AT_ONCE, TIME / 4);
    let before = tokio::task::spawn_blocking(bare).await??;
    let (ours, in_groups) = launch_for(&bench.program, &dir, TIME).await?;
    let after = tokio::task::spawn_blocking(bare).await??;
    let spawns = f64::midpoint(before, after);
    let line = Line::new(format!("local processes, {AT_ONCE} at once"), ours, "processes/s", Target::None);
    bench.tell(line.beside("posix_spawn/s", spawns));
    // Control groups, which only some users may make, are paid for by tasks that cannot escape.
    let (with, least) = if in_groups { (", in control groups", 60.0) } else { ("", 80.0) };
    let share = format!("local processes{with}, share of a bare posix_spawn loop");
    bench.tell(Line::new(share, ours / spawns * 100.0, "%", Target::AtLeast(least)));
    Ok(())
}

/// Keeps so many tasks alive for so long; how many ended a second, and whether each was in a control group.
async fn launch_for(program: &Path, dir: &Path, time: Duration) -> anyhow::Result<(f64, bool)> {
    let engine = Arc::new(LocalEngine::open(LocalOptions {
        dir: dir.into(),
        supervisor_program: program.into(),
        supervisor_args: vec!["supervise".into(), "--dir".into(), dir.into()],
    }));
    let ready = async {
        while engine.readiness() != Readiness::Ready {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), ready).await.context("no supervisor has come")?;
    engine.begin_term(Epoch(1)).await?;
    let spec = Arc::new(TaskSpec { command: PROGRAM.into(), output_max: 1024 * 1024, ..TaskSpec::default() });
    let name = JobName::new("bench")?;
    let mut open: BTreeSet<TaskId> = BTreeSet::new();
    let (mut number, mut ended) = (0, 0_u32);
    let begun = Instant::now();
    while begun.elapsed() < time || !open.is_empty() {
        while open.len() < AT_ONCE && begun.elapsed() < time {
            number += 1;
            let key = RunKey { job: JobUid(1), cause: Cause::Trigger(number) };
            let task = TaskId::of(&name, key, 0);
            open.insert(task.clone());
            let launch =
                Launch { task, spec: spec.clone(), not_after: since_boot() + Duration::from_secs(10) };
            let engine = engine.clone();
            tokio::spawn(async move { engine.launch(Epoch(1), launch).await });
        }
        let news = tokio::time::timeout(Duration::from_secs(10), engine.events());
        let news = news.await.context("no end of a task is heard of")?;
        let ends = news.into_iter().filter(|event| matches!(event.known, Known::Ended(_)));
        let ends: Vec<TaskId> = ends.map(|event| event.task).filter(|task| open.remove(task)).collect();
        ended += u32::try_from(ends.len())?;
        engine.acknowledge(&ends).await?;
    }
    let in_groups = !engine.notes().iter().any(|note| note.contains("no control group can be made"));
    Ok((f64::from(ended) / begun.elapsed().as_secs_f64(), in_groups))
}
