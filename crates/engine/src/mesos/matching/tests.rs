use std::sync::Arc;

use proptest::collection::vec;
use proptest::prelude::*;
use serde_json::json;

use super::super::resources::AttributeValue;
use super::*;
use crate::{Constraint, Operator};

fn scalar_of(name: &str, amount: u64, role: &str) -> Resource {
    let raw = json!({"name": name, "type": "SCALAR", "role": role});
    Resource {
        name: name.into(),
        amount: Amount::Scalar(Thousandths(amount)),
        role: role.into(),
        raw: Arc::new(raw),
        revocable: false,
        shared: false,
    }
}

/// An offer of `agent`, in whole processors and MB, of the rack `r0`.
fn offer(id: &str, agent: &str, [cpus, mem, disk]: [u64; 3]) -> Offer {
    let amounts = [("cpus", cpus), ("mem", mem), ("disk", disk)];
    Offer {
        id: id.into(),
        agent: agent.into(),
        hostname: format!("{agent}.example.org"),
        url: AgentUrl { tls: false, host: agent.into(), port: 5051 },
        role: "ops".into(),
        resources: amounts.map(|(name, amount)| scalar_of(name, amount * 1000, "*")).to_vec(),
        attributes: vec![rack("r0")],
        received: Duration::from_secs(1),
    }
}

fn rack(value: &str) -> Attribute {
    Attribute { name: "rack".into(), value: AttributeValue::Text(value.into()) }
}

fn demand([cpus, mem, disk]: [u64; 3]) -> Demand {
    let of = |whole: u64| Thousandths(whole * 1000);
    Demand { cpus: of(cpus), mem: of(mem), disk: of(disk), constraints: Vec::new() }
}

fn on_rack(value: &str, demand: Demand) -> Demand {
    let constraint =
        Constraint { attribute: "rack".into(), operator: Operator::Like, value: value.to_owned() };
    Demand { constraints: vec![constraint], ..demand }
}

fn task(n: usize) -> TaskId {
    TaskId::parse(&format!("job-{n}")).expect("a task")
}

fn pool(offers: impl IntoIterator<Item = Offer>) -> Pool {
    let mut pool = Pool::default();
    offers.into_iter().for_each(|offer| pool.insert(offer));
    pool
}

fn queue(demands: impl IntoIterator<Item = Demand>) -> Queue {
    let mut queue = Queue::default();
    for (n, demand) in demands.into_iter().enumerate() {
        queue.push(n as u64, task(n), demand).expect("patterns");
    }
    queue
}

/// Places all, and says which task went where.
#[track_caller]
fn check(
    offers: impl IntoIterator<Item = Offer>,
    demands: impl IntoIterator<Item = Demand>,
    expected: &[(usize, &str)],
) {
    let placed = place(&mut pool(offers), &mut queue(demands));
    let placed: Vec<_> = placed.iter().map(|placed| (placed.task.clone(), placed.agent.as_str())).collect();
    let expected: Vec<_> = expected.iter().map(|(n, agent)| (task(*n), *agent)).collect();
    assert_eq!(placed, expected);
}

#[test]
fn the_smallest_that_has_room_is_taken() {
    let offers = || {
        [
            offer("1", "big", [8, 8000, 100]),
            offer("2", "small", [2, 2000, 100]),
            offer("3", "mid", [4, 4000, 100]),
        ]
    };
    check(offers(), [demand([2, 100, 1])], &[(0, "small")]);
    check(offers(), [demand([2, 2100, 1])], &[(0, "mid")]);
    check(
        offers(),
        [demand([1, 1, 1]), demand([1, 1, 1]), demand([1, 1, 1])],
        &[(0, "small"), (1, "small"), (2, "mid")],
    );
    check(offers(), [demand([9, 1, 1])], &[]);
}

#[test]
fn who_came_first_is_served_first_and_holds_up_nobody() {
    let offers = || [offer("1", "a", [4, 4000, 100])];
    // The second is too large for anyone.
    check(offers(), [demand([2, 1, 1]), demand([9, 1, 1]), demand([2, 1, 1])], &[(0, "a"), (2, "a")]);
    check(offers(), [demand([3, 1, 1]), demand([2, 1, 1]), demand([1, 1, 1])], &[(0, "a"), (2, "a")]);
    check(offers(), [demand([1, 1, 1]), demand([4, 1, 1])], &[(0, "a")]);
}

#[test]
fn a_constraint_is_stronger_than_a_good_fit() {
    let offers = || {
        let other = Offer { attributes: vec![rack("r1")], ..offer("2", "b", [8, 8000, 100]) };
        [offer("1", "a", [1, 100, 100]), other]
    };
    check(offers(), [on_rack("r1", demand([1, 1, 1]))], &[(0, "b")]);
    check(offers(), [on_rack("r2", demand([1, 1, 1])), demand([1, 1, 1])], &[(1, "a")]);
}

#[test]
fn several_offers_of_a_machine_are_one() {
    let mut pool = pool([
        offer("1", "a", [1, 100, 100]),
        offer("2", "a", [1, 100, 100]),
        // Put up to another role: it cannot be accepted together with these.
        Offer { role: "dev".into(), ..offer("3", "a", [1, 100, 100]) },
    ]);
    let mut queue = queue([demand([3, 1, 1]), demand([2, 1, 1])]);
    let placed = place(&mut pool, &mut queue);
    assert_eq!(placed.len(), 1);
    assert_eq!(
        (placed[0].task.clone(), placed[0].offers.clone()),
        (task(1), vec!["1".to_owned(), "2".into()])
    );
    assert_eq!(pool.untouched().map(|offer| offer.id.as_str()).collect::<Vec<_>>(), ["3"]);
}

#[test]
fn what_is_reserved_for_us_goes_first_and_what_is_for_others_never() {
    let mut mixed = offer("1", "a", [1, 100, 100]);
    mixed.resources.extend([
        scalar_of("cpus", 1000, "ops"),
        scalar_of("cpus", 500, "ops"),
        scalar_of("cpus", 8000, "dev"),
        Resource { revocable: true, ..scalar_of("cpus", 8000, "*") },
    ]);
    let mut pool = pool([mixed]);
    let placed = place(&mut pool, &mut queue([demand([9, 1, 1]), demand([2, 1, 1])]));
    assert_eq!(placed.len(), 1);
    let taken: Vec<_> = placed[0].resources.iter().filter(|part| part.name == "cpus").collect();
    let taken: Vec<_> = taken.iter().map(|part| (part.role.as_str(), scalar(part))).collect();
    assert_eq!(taken, [("ops", 1000), ("ops", 500), ("*", 500)]);
}

#[test]
fn what_goes_back_can_be_taken_again() {
    let mut pool = pool([offer("1", "a", [2, 100, 100])]);
    let mut queue = queue([demand([2, 100, 100])]);
    let placed = place(&mut pool, &mut queue).remove(0);
    assert!(queue.is_empty() && pool.untouched().next().is_none());
    pool.give_back(&placed);
    // Twice is not more than there was.
    pool.give_back(&placed);
    assert_eq!(pool.untouched().count(), 1);
    queue.push(placed.order, placed.task.clone(), demand([2, 100, 100])).expect("no patterns");
    queue.push(1, task(1), demand([1, 1, 1])).expect("no patterns");
    assert_eq!(place(&mut pool, &mut queue), std::slice::from_ref(&placed));
    // What is gone cannot come back.
    assert_eq!(pool.remove("1").map(|offer| offer.id), Some("1".into()));
    pool.give_back(&placed);
    assert!(pool.is_empty() && place(&mut pool, &mut queue).is_empty());
    assert!(queue.remove(&task(1)) && !queue.remove(&task(1)) && queue.is_empty());
}

#[test]
fn who_waits_is_told_why() {
    let mut pool = Pool::default();
    let mut queue = queue([
        demand([4, 100, 100]),
        on_rack("r1", demand([1, 1, 1])),
        on_rack("r0", demand([3, 3000, 1])),
        demand([1, 1, 1]),
    ]);
    let told = |queue: &Queue, pool: &Pool, n| queue.misfit(&task(n), pool).map(|misfit| misfit.to_string());
    assert_eq!(told(&queue, &pool, 0), Some("no agent has put up anything yet".into()));
    pool.insert(offer("1", "a", [2, 2000, 100]));
    pool.insert(Offer { attributes: vec![rack("r2")], ..offer("2", "b", [3, 4000, 100]) });
    assert_eq!(
        told(&queue, &pool, 0),
        Some(
            "no agent has room for it; the nearest is b.example.org: it asks for 4 cpus, there are 3".into()
        )
    );
    assert_eq!(
        told(&queue, &pool, 1),
        Some("no agent fulfils its constraints (2 seen): `rack LIKE r1` holds on none".into())
    );
    assert_eq!(
        told(&queue, &pool, 2),
        Some(
            "no agent has room for it; the nearest is a.example.org: it asks for 3 cpus, there are 2; 3000 mem, there are 2000 \
             (of 2 agents, `rack LIKE r0` keeps it from up to 1)"
                .into()
        )
    );
    assert_eq!(told(&queue, &pool, 9), None);
    // What was seen is remembered after the offers are gone, less what was placed.
    assert_eq!(place(&mut pool, &mut queue).len(), 1);
    pool.remove("1");
    pool.remove("2");
    let misfit = queue.misfit(&task(0), &pool).expect("it waits");
    assert_eq!(misfit.best.map(|best| best.hostname), Some("b.example.org".into()));
}

#[test]
fn a_task_whose_pattern_is_wrong_does_not_wait() {
    let mut queue = Queue::default();
    assert!(queue.push(0, task(0), on_rack("(", demand([1, 1, 1]))).is_err());
    assert!(queue.is_empty() && !queue.contains(&task(0)));
}

fn any_offer() -> impl Strategy<Value = (u8, bool, [u64; 3], u64, u8)> {
    // Agent, role, unreserved amounts, reserved processors, rack.
    (0..5u8, any::<bool>(), [0..5u64, 0..5u64, 0..5u64], 0..3u64, 0..3u8)
}

fn any_demand() -> impl Strategy<Value = ([u64; 3], Option<u8>)> {
    ([1..5u64, 0..5u64, 0..5u64], proptest::option::weighted(0.4, 0..3u8))
}

/// What is left of a machine, counted once more and simply: by agent and role.
fn left(offers: &[Offer], placed: &[Placement]) -> BTreeMap<(String, String), [i64; 3]> {
    let mut left: BTreeMap<(String, String), [i64; 3]> = BTreeMap::new();
    let mut count = |key: (String, String), resources: &[Resource], sign: i64| {
        let left = left.entry(key).or_default();
        for resource in resources.iter().filter(|resource| !resource.revocable && resource.role != "other") {
            if let Some(n) = Demand::NAMES.iter().position(|name| *name == resource.name) {
                left[n] += sign * scalar(resource).cast_signed();
            }
        }
    };
    for offer in offers {
        count((offer.agent.clone(), offer.role.clone()), &offer.resources, 1);
    }
    for placed in placed {
        let of = |offer: &&Offer| offer.id == placed.offers[0];
        let role = offers.iter().find(of).map_or_else(String::new, |offer| offer.role.clone());
        count((placed.agent.clone(), role), &placed.resources, -1);
    }
    left
}

proptest! {
    /// Never more than there is, of no offer and no reservation; never against a constraint; never something left over that
    /// fits somewhere; and whoever is not placed could not be placed before those that came after.
    #[test]
    fn matching_is_lawful(offers in vec(any_offer(), 0..8), demands in vec(any_demand(), 0..20), churn in vec(any::<bool>(), 8)) {
        let make = |(n, (agent, dev, amounts, reserved, rack_number)): (usize, &(u8, bool, [u64; 3], u64, u8))| {
            let mut offer = offer(&n.to_string(), &format!("agent-{agent}"), *amounts);
            offer.role = if *dev { "dev" } else { "ops" }.into();
            // A machine has one set of attributes.
            offer.attributes = vec![rack(&format!("r{}", agent % 3))];
            let _ = rack_number;
            offer.resources.push(scalar_of("cpus", reserved * 1000, &offer.role));
            offer.resources.push(scalar_of("cpus", 9000, "other"));
            offer.resources.push(Resource { revocable: true, ..scalar_of("mem", 9000, "*") });
            offer
        };
        let offers: Vec<_> = offers.iter().enumerate().map(make).collect();
        let make = |(amounts, rack): &([u64; 3], Option<u8>)| match rack {
            Some(rack) => on_rack(&format!("r{rack}"), demand(*amounts)),
            None => demand(*amounts),
        };
        let demands: Vec<_> = demands.iter().map(make).collect();
        let (mut pool, mut queue) = (pool(offers.clone()), queue(demands.clone()));
        // Some are placed and go back: it must be as if they never had.
        let mut placed = place(&mut pool, &mut queue);
        for (n, placement) in std::mem::take(&mut placed).into_iter().enumerate() {
            if churn[n % churn.len()] {
                pool.give_back(&placement);
                let order = placement.order;
                queue.push(order, placement.task, demands[usize::try_from(order).expect("small")].clone()).expect("patterns");
            } else {
                placed.push(placement);
            }
        }
        placed.extend(place(&mut pool, &mut queue));

        let mut names: Vec<_> = placed.iter().map(|placed| placed.task.clone()).collect();
        names.sort();
        names.dedup();
        prop_assert_eq!(names.len(), placed.len(), "each once");
        let left = left(&offers, &placed);
        for (key, left) in &left {
            prop_assert!(left.iter().all(|left| *left >= 0), "{:?}: {:?}", key, left);
        }
        for placed in &placed {
            let demand = &demands[usize::try_from(placed.order).expect("small")];
            for (name, wanted) in Demand::NAMES.into_iter().zip(demand.amounts()) {
                let parts = placed.resources.iter().filter(|part| part.name == name);
                prop_assert_eq!(parts.map(scalar).sum::<u64>(), wanted, "exactly what it asks for");
            }
            for part in &placed.resources {
                prop_assert!(part.role != "other" && !part.revocable);
                prop_assert!(scalar(part) > 0);
            }
            let from: Vec<_> = offers.iter().filter(|offer| placed.offers.contains(&offer.id)).collect();
            prop_assert!(!from.is_empty() && from.iter().all(|offer| offer.agent == placed.agent));
            let constraints = Constraints::new(&demand.constraints).expect("patterns");
            prop_assert!(constraints.hold(&placed.hostname, &from[0].attributes));
        }
        // By offer and reservation, too.
        for offer in &offers {
            for whole in &offer.resources {
                let taken = placed.iter().flat_map(|placed| &placed.resources).filter(|part| part.is_of(whole));
                prop_assert!(taken.map(scalar).sum::<u64>() <= scalar(whole));
            }
            let touched = placed.iter().flat_map(|placed| &placed.resources).any(|part| offer.resources.iter().any(|whole| part.is_of(whole)));
            prop_assert_eq!(pool.untouched().any(|free| free.id == offer.id), !touched);
        }
        let waiting: Vec<_> = (0..demands.len()).filter(|n| queue.contains(&task(*n))).collect();
        prop_assert_eq!(waiting.len(), demands.len() - placed.len());
        for n in waiting {
            let demand = &demands[n];
            let constraints = Constraints::new(&demand.constraints).expect("patterns");
            for ((agent, role), left) in &left {
                let of = |offer: &&Offer| offer.agent == *agent && offer.role == *role;
                let offer = offers.iter().find(of).expect("one of them");
                let fits = demand.amounts().iter().zip(left).all(|(need, left)| need.cast_signed() <= *left);
                prop_assert!(!fits || !constraints.hold(&offer.hostname, &offer.attributes), "{:?} fits {}", demand, agent);
            }
        }
    }
}
