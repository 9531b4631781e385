//! `sandpit bench tools`: create, execute, list, status and terminate, from the warm pool, over
//! MCP on standard input and output, over MCP on HTTP, and over NATS, in turns.

mod ways;

use serde_json::{Value, json};

use super::node::{self, Asker, TEMPLATE};
use super::stats::{Row, Times};
use super::{Bench, BenchError, Plan};
use crate::cli::failure::Failure;
use ways::Way;

/// Sandboxes kept ready.
const STOCK: usize = 4;
/// Lives of a sandbox in one turn.
const TURN: u32 = 20;

/// What is measured, in the order in which it is done to one sandbox.
const STEPS: [(&str, &str); 5] = [
    ("create", "create_e2b_sandbox"),
    ("execute 1+1", "execute_e2b_process"),
    ("list", "list_e2b_sandboxes"),
    ("status", "get_e2b_sandbox_status"),
    ("terminate", "terminate_e2b_sandbox"),
];

/// The ways, NATS first: it is what the others are compared with.
const WAYS: [&str; 3] = ["NATS", "MCP stdio", "MCP HTTP"];

/// All in turns.
pub(super) fn run(bench: &Bench, plan: Plan) -> Result<Vec<Row>, Failure> {
    node::with(bench, STOCK, async |node| {
        let (data, http) = (node.data().to_owned(), node.http());
        let stages = bench.stages.clone();
        let measured = node::asking(node, async move |asker| {
            let nats = Way::nats(asker.client.clone());
            let mut ways = [nats, Way::stdio(&data).await?, Way::http(http).await?];
            let mut times: [[Times; 5]; 3] =
                std::array::from_fn(|_| std::array::from_fn(|_| Times::new()));
            // The first round warms up and does not count.
            for round in 0..=plan.rounds {
                stages.step("lives of a sandbox over three faces in turns", plan.share(round));
                for (way, times) in ways.iter_mut().zip(&mut times) {
                    for turn in 0..TURN {
                        asker.stocked(STOCK).await?;
                        let of_one = live(&asker, way, turn).await?;
                        if round > 0 {
                            times.iter_mut().zip(of_one).for_each(|(all, one)| all.take(&one));
                        }
                    }
                }
            }
            Ok(rows(&times))
        });
        measured.await
    })
}

/// One sandbox from its creation to its end.
async fn live(asker: &Asker, way: &mut Way, turn: u32) -> Result<[Times; 5], BenchError> {
    let mut times: [Times; 5] = std::array::from_fn(|_| Times::new());
    let mut sandbox = Value::Null;
    for ((step, tool), times) in STEPS.into_iter().zip(&mut times) {
        let arguments = match step {
            "create" => json!({ "name": format!("bench-{turn}"), "template": TEMPLATE }),
            "list" => json!({ "status_filter": "running" }),
            "execute 1+1" => json!({ "sandbox_id": sandbox, "code": "1+1" }),
            _ => json!({ "sandbox_id": sandbox }),
        };
        let begun = asker.clock.now();
        let answer = way.call(tool, arguments).await?;
        times.add(asker.clock.now().since(begun));
        let is_done = match step {
            "create" => answer["from_pool"] == true,
            "execute 1+1" => answer["result"] == "2",
            "list" => answer["total_count"].as_u64().is_some_and(|count| count >= 1),
            "status" => answer["status"] == "running",
            _ => answer["status"] == "terminated",
        };
        if !is_done {
            return Err(BenchError::new(format!("{tool} answered {answer}")));
        }
        if step == "create" {
            sandbox = answer["sandbox_id"].clone();
        }
    }
    Ok(times)
}

fn rows(times: &[[Times; 5]; 3]) -> Vec<Row> {
    let mut rows = Vec::new();
    for (at, (step, _)) in STEPS.into_iter().enumerate() {
        let of = |way: usize| format!("{step}, {}", WAYS[way]);
        let nats = Row::ours(&of(0), &times[0][at]);
        let others = [1, 2].map(|way| Row::ours(&of(way), &times[way][at]).against(&nats));
        rows.push(nats);
        rows.extend(others);
    }
    rows
}
