//! `chronos graph`: which jobs start which, as trees on a terminal, for Graphviz, or for programs.

use std::collections::BTreeMap;
use std::io::IsTerminal;

use clap::{Args, ValueEnum};
use serde_json::Value;

use super::ChosenArgs;
use super::client::{Client, job_name};
use super::failure::{Failure, printable};
use super::queries::{text, time};

pub(super) const HELP: &str = "\
A job that several others start is drawn in full below the first of them; below the others it has an arrow (↑).
The job that is asked for is marked with `>`.

Examples:
  chronos graph
  chronos graph report
  chronos graph report --up
  chronos graph nightly --down --depth 2
  chronos graph --label team=etl --output dot | dot -Tsvg > etl.svg";

/// Levels that are drawn: deeper ones would leave no room for names, and fill the disk of whoever keeps the output.
const LEVELS_MAX: usize = 40;
/// Further parents that a line names.
const PARENTS_MAX: usize = 3;

/// In which form.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Form {
    /// For people.
    Tree,
    /// For Graphviz.
    Dot,
    /// For programs.
    Json,
}

#[derive(Debug, Args)]
pub(super) struct GraphArgs {
    /// Only this job, what starts it, and what it starts
    #[arg(conflicts_with = "ChosenArgs")]
    job: Option<String>,
    /// Only what starts the job
    #[arg(long, requires = "job", conflicts_with = "down")]
    up: bool,
    /// Only what the job starts
    #[arg(long, requires = "job")]
    down: bool,
    /// At most so many steps away from the job
    #[arg(long, value_name = "STEPS", requires = "job")]
    depth: Option<u32>,
    #[command(flatten)]
    chosen: ChosenArgs,
    /// `tree` is for people, `dot` for Graphviz, `json` for scripts
    #[arg(long, hide_possible_values = true, value_name = "FORMAT", default_value = "tree")]
    output: Form,
    #[command(flatten)]
    at: super::ServerAt,
}

pub(super) async fn run(args: &GraphArgs) -> Result<(), Failure> {
    let client = Client::of(&args.at)?;
    let mut query = args.chosen.query();
    if let Some(job) = &args.job {
        query.push(("job", job_name(job)?.to_owned()));
        let direction = if args.up {
            "up"
        } else if args.down {
            "down"
        } else {
            "both"
        };
        query.push(("direction", direction.into()));
        query.extend(args.depth.iter().map(|depth| ("depth", depth.to_string())));
    }
    let answer = client.get(&["v1", "graph"], &query).await?;
    let graph = Graph::of(&answer, args.job.as_deref());
    match args.output {
        Form::Json => super::out_json(&answer)?,
        Form::Dot => super::out(graph.dot().as_bytes())?,
        Form::Tree => {
            let colour = std::io::stdout().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            super::out(graph.trees(colour).as_bytes())?;
        }
    }
    Ok(())
}

/// What a server has told. Jobs are numbered in the order of their names.
struct Graph<'a> {
    nodes: &'a [Value],
    children: Vec<Vec<usize>>,
    parents: Vec<Vec<usize>>,
    /// The job that was asked for.
    asked: Option<&'a str>,
}

/// How a job is, in one word.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Look {
    Running,
    Failed,
    Held,
    Plain,
}

impl<'a> Graph<'a> {
    fn of(answer: &'a Value, asked: Option<&'a str>) -> Self {
        let nodes = answer["nodes"].as_array().map_or(&[][..], Vec::as_slice);
        let number: BTreeMap<&str, usize> =
            nodes.iter().enumerate().filter_map(|(i, node)| Some((node["job"].as_str()?, i))).collect();
        let (mut children, mut parents) = (vec![Vec::new(); nodes.len()], vec![Vec::new(); nodes.len()]);
        for edge in answer["edges"].as_array().into_iter().flatten() {
            let end = |key: &str| edge[key].as_str().and_then(|name| number.get(name)).copied();
            if let (Some(from), Some(to)) = (end("from"), end("to")) {
                children[from].push(to);
                parents[to].push(from);
            }
        }
        Self { nodes, children, parents, asked }
    }

    fn name(&self, node: usize) -> &str {
        self.nodes[node]["job"].as_str().unwrap_or_default()
    }

    fn look(&self, node: usize) -> Look {
        let node = &self.nodes[node];
        match () {
            () if node["state"].as_str().is_some_and(|state| state.ends_with("running")) => Look::Running,
            () if node["disabled"] == true || node["paused"] == true => Look::Held,
            () if matches!(node["lastOutcome"].as_str(), Some("failed" | "timedOut" | "lost" | "killed")) => {
                Look::Failed
            }
            () => Look::Plain,
        }
    }

    /// Trees, the roots by name; each job with what it starts below it. Not recursive: a chain may be as long as it likes.
    fn trees(&self, colour: bool) -> String {
        let mut out = String::new();
        let mut drawn = vec![false; self.nodes.len()];
        let roots = (0..self.nodes.len()).filter(|node| self.parents[*node].is_empty());
        // What is still to be drawn, the next last: a job, under which of its parents, and whether each level from the
        // root to it goes on below.
        let mut open: Vec<(usize, Option<usize>, Vec<bool>)> =
            roots.map(|root| (root, None, Vec::new())).collect();
        open.reverse();
        while let Some((node, under, levels)) = open.pop() {
            for (i, goes_on) in levels.iter().enumerate() {
                let is_last = i + 1 == levels.len();
                out.push_str(match (is_last, goes_on) {
                    (false, true) => "│  ",
                    (false, false) => "   ",
                    (true, true) => "├─ ",
                    (true, false) => "└─ ",
                });
            }
            let again = std::mem::replace(&mut drawn[node], true);
            out.push_str(&self.line(node, under, again, colour));
            let children = &self.children[node];
            if again || children.is_empty() {
                continue;
            }
            if levels.len() == LEVELS_MAX {
                let name = printable(self.name(node));
                out.push_str(&format!("  … goes on: chronos graph {name} --down\n"));
                continue;
            }
            for (i, child) in children.iter().enumerate().rev() {
                let goes_on = i + 1 < children.len();
                open.push((*child, Some(node), levels.iter().copied().chain([goes_on]).collect()));
            }
        }
        out
    }

    fn line(&self, node: usize, under: Option<usize>, again: bool, colour: bool) -> String {
        let told = &self.nodes[node];
        let mark = if self.asked == Some(self.name(node)) { "> " } else { "" };
        if again {
            return format!("{mark}{} ↑\n", printable(self.name(node)));
        }
        let mut words = vec![text(&told["state"])];
        for held in ["disabled", "paused"] {
            if told[held] == true {
                words.push(held.into());
            }
        }
        words.extend(told["lastOutcome"].as_str().map(|outcome| format!("last {outcome}")));
        if let Some(next) = told["next"].as_str() {
            words.push(format!("next {}", time(&next.into())));
        }
        let others: Vec<&str> =
            self.parents[node].iter().filter(|p| Some(**p) != under).map(|p| self.name(*p)).collect();
        if !others.is_empty() {
            let more = others.len().saturating_sub(PARENTS_MAX);
            let rest = if more > 0 { format!(" and {more} more") } else { String::new() };
            words.push(format!("also after {}{rest}", others[..others.len() - more].join(", ")));
        }
        let code = match self.look(node) {
            Look::Running => "32",
            Look::Failed => "31",
            Look::Held => "33",
            Look::Plain => "",
        };
        let (state, name) = (printable(&words.join(", ")), printable(self.name(node)));
        match colour && !code.is_empty() {
            true => format!("{mark}{name}  \x1b[{code}m{state}\x1b[0m\n"),
            false => format!("{mark}{name}  {state}\n"),
        }
    }

    fn dot(&self) -> String {
        let mut out = String::from("digraph chronos {\n  rankdir=LR;\n  node [shape=box, style=rounded];\n");
        for node in 0..self.nodes.len() {
            let colour = match self.look(node) {
                Look::Running => ", color=green",
                Look::Failed => ", color=red",
                Look::Held => ", color=gray, fontcolor=gray",
                Look::Plain => "",
            };
            let width = if self.asked == Some(self.name(node)) { ", penwidth=2" } else { "" };
            let name = quoted(self.name(node));
            let state = quoted(&text(&self.nodes[node]["state"]));
            out.push_str(&format!("  \"{name}\" [label=\"{name}\\n{state}\"{colour}{width}];\n"));
        }
        for (from, children) in self.children.iter().enumerate() {
            for to in children {
                out.push_str(&format!(
                    "  \"{}\" -> \"{}\";\n",
                    quoted(self.name(from)),
                    quoted(self.name(*to))
                ));
            }
        }
        out.push_str("}\n");
        out
    }
}

/// As Graphviz reads it. A server of ours has no such names, but another may answer.
fn quoted(text: &str) -> String {
    printable(text).replace('\\', "\\\\").replace('"', "\\\"")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn graph(nodes: &[&str], edges: &[(&str, &str)]) -> Value {
        let node = |name: &&str| json!({ "job": name, "state": "idle", "disabled": false, "paused": false });
        let edge = |(from, to): &(&str, &str)| json!({ "from": from, "to": to });
        json!({
            "nodes": nodes.iter().map(node).collect::<Vec<_>>(),
            "edges": edges.iter().map(edge).collect::<Vec<_>>(),
        })
    }

    #[test]
    fn each_job_is_drawn_in_full_once() {
        let mut answer = graph(
            &["a", "alone", "b", "c", "d", "e"],
            &[("a", "c"), ("a", "e"), ("b", "c"), ("c", "d"), ("d", "e")],
        );
        answer["nodes"][0]["lastOutcome"] = "failed".into();
        answer["nodes"][2]["next"] = "2030-01-01T00:00:00.000Z".into();
        answer["nodes"][3]["paused"] = true.into();
        let expected = "\
a  idle, last failed
├─ > c  idle, paused, also after b
│  └─ d  idle
│     └─ e  idle, also after a
└─ e ↑
alone  idle
b  idle, next 2030-01-01T00:00:00Z
└─ > c ↑
";
        assert_eq!(Graph::of(&answer, Some("c")).trees(false), expected);
        assert!(Graph::of(&answer, None).trees(true).contains("a  \x1b[31midle, last failed\x1b[0m\n"));
    }

    #[test]
    fn ten_thousand_jobs_in_a_row_or_side_by_side() {
        let names: Vec<String> = (0..10_000).map(|n| format!("job-{n:05}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let chain: Vec<_> = names.windows(2).map(|pair| (pair[0], pair[1])).collect();
        let answer = graph(&names, &chain);
        let text = Graph::of(&answer, None).trees(false);
        assert_eq!(text.lines().count(), LEVELS_MAX + 2);
        assert!(text.ends_with("  … goes on: chronos graph job-00040 --down\n"), "{text}");
        let answer = graph(&names, &[]);
        assert_eq!(Graph::of(&answer, None).trees(false).lines().count(), names.len());
    }

    #[test]
    fn graphviz_gets_every_job_and_every_edge() {
        let mut answer = graph(&["a", "b"], &[("a", "b")]);
        answer["nodes"][1]["state"] = "1 running".into();
        let expected = "\
digraph chronos {
  rankdir=LR;
  node [shape=box, style=rounded];
  \"a\" [label=\"a\\nidle\", penwidth=2];
  \"b\" [label=\"b\\n1 running\", color=green];
  \"a\" -> \"b\";
}
";
        assert_eq!(Graph::of(&answer, Some("a")).dot(), expected);
    }
}
