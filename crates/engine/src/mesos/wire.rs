//! The v1 scheduler API as it travels: what the master tells, and what it is told.
//!
//! Nothing is demanded of the master beyond what is used: what is unknown or missing, and the empty objects that it puts
//! for capabilities it has no name for, do no harm.

use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::options::MesosOptions;
use super::place::AgentUrl;
use super::resources::{Amount, Attribute, AttributeValue, Offer, Resource, Thousandths};
use super::status::TaskState;

/// What the master tells.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Subscribed {
        framework: String,
        heartbeat: Option<Duration>,
    },
    Offers(Vec<Offer>),
    Rescind {
        offer: String,
    },
    Update(Box<Status>),
    /// An agent was removed, or one of its executors ended.
    Failure {
        agent: String,
    },
    Error {
        message: String,
    },
    Heartbeat,
    /// What is of no use here, or what a later Mesos has.
    Other,
}

/// What a task has come to.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(super) struct Status {
    pub(super) task_id: Id,
    pub(super) state: TaskState,
    pub(super) message: String,
    pub(super) reason: String,
    pub(super) agent_id: Id,
    /// To be acknowledged by it, in Base64 as it came; empty where no acknowledgement is awaited.
    pub(super) uuid: String,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub(super) struct Id {
    pub(super) value: String,
}

/// What the master is told.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Call {
    Accept {
        offers: Vec<String>,
        tasks: Vec<Value>,
        refuse: Duration,
    },
    Decline {
        offers: Vec<String>,
        refuse: Duration,
    },
    Kill {
        task: String,
        agent: String,
        grace: Duration,
    },
    /// Each with its agent, where that is known.
    Reconcile {
        tasks: Vec<(String, Option<String>)>,
    },
    Acknowledge {
        task: String,
        agent: String,
        uuid: String,
    },
    Revive,
    Suppress,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Message {
    #[serde(rename = "type")]
    kind: String,
    subscribed: Option<Subscribed>,
    offers: Offers,
    rescind: Rescind,
    update: Update,
    failure: Failure,
    error: Trouble,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Subscribed {
    framework_id: Id,
    heartbeat_interval_seconds: Option<f64>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Offers {
    offers: Vec<OfferTold>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Rescind {
    offer_id: Id,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Update {
    status: Status,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Failure {
    agent_id: Id,
    executor_id: Option<Id>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Trouble {
    message: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct OfferTold {
    id: Id,
    agent_id: Id,
    hostname: String,
    url: UrlTold,
    allocation_info: Allocation,
    resources: Vec<Value>,
    attributes: Vec<AttributeTold>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Allocation {
    role: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct UrlTold {
    scheme: String,
    address: AddressTold,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AddressTold {
    hostname: String,
    ip: String,
    port: u16,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct AttributeTold {
    name: String,
    text: Option<TextTold>,
    scalar: Option<ScalarTold>,
    ranges: Option<RangesTold>,
    set: Option<SetTold>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ResourceTold {
    name: String,
    role: Option<String>,
    reservations: Vec<Reservation>,
    scalar: Option<ScalarTold>,
    ranges: Option<RangesTold>,
    set: Option<SetTold>,
    revocable: Option<Value>,
    shared: Option<Value>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct Reservation {
    role: Option<String>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct TextTold {
    value: String,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct ScalarTold {
    value: f64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RangesTold {
    range: Vec<RangeTold>,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct RangeTold {
    begin: u64,
    end: u64,
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct SetTold {
    item: Vec<String>,
}

impl Event {
    /// Reads one record; `now` since boot.
    pub(super) fn read(record: &[u8], now: Duration) -> serde_json::Result<Self> {
        let message: Message = serde_json::from_slice(record)?;
        Ok(match message.kind.as_str() {
            "SUBSCRIBED" => {
                let Subscribed { framework_id, heartbeat_interval_seconds } =
                    message.subscribed.unwrap_or_default();
                let heartbeat = heartbeat_interval_seconds.and_then(|s| Duration::try_from_secs_f64(s).ok());
                Self::Subscribed {
                    framework: framework_id.value,
                    heartbeat: heartbeat.filter(|every| !every.is_zero()),
                }
            }
            "OFFERS" => {
                Self::Offers(message.offers.offers.into_iter().map(|offer| offer.read(now)).collect())
            }
            "RESCIND" => Self::Rescind { offer: message.rescind.offer_id.value },
            "UPDATE" => Self::Update(Box::new(message.update.status)),
            "FAILURE" if message.failure.executor_id.is_none() => {
                Self::Failure { agent: message.failure.agent_id.value }
            }
            "ERROR" => Self::Error { message: message.error.message },
            "HEARTBEAT" => Self::Heartbeat,
            _ => Self::Other,
        })
    }
}

impl OfferTold {
    fn read(self, now: Duration) -> Offer {
        let tls = self.url.scheme.eq_ignore_ascii_case("https");
        let AddressTold { hostname, ip, port } = self.url.address;
        // A certificate is for a name; an address needs nobody who knows it.
        let named = [hostname, self.hostname.clone()].into_iter().find(|name| !name.is_empty());
        let host = if tls || ip.is_empty() { named.unwrap_or(ip) } else { ip };
        let role = self.allocation_info.role.unwrap_or_else(|| Resource::ANYONE.into());
        Offer {
            id: self.id.value,
            agent: self.agent_id.value,
            hostname: self.hostname,
            url: AgentUrl { tls, host, port },
            role,
            resources: self.resources.into_iter().filter_map(resource).collect(),
            attributes: self.attributes.into_iter().filter_map(AttributeTold::read).collect(),
            received: now,
        }
    }
}

fn resource(raw: Value) -> Option<Resource> {
    let told = ResourceTold::deserialize(&raw).ok()?;
    let amount = match (told.scalar, told.ranges, told.set) {
        (Some(scalar), ..) => Amount::Scalar(Thousandths::nearest(scalar.value)),
        (_, Some(ranges), _) => Amount::Ranges(ranges.read()),
        (.., Some(set)) => Amount::Set(set.item),
        _ => return None,
    };
    // The last of the reservations is the finest; older masters say the role itself.
    let reserved = told.reservations.into_iter().next_back().and_then(|reservation| reservation.role);
    let role = reserved.or(told.role).unwrap_or_else(|| Resource::ANYONE.into());
    let (revocable, shared) = (told.revocable.is_some(), told.shared.is_some());
    Some(Resource { name: told.name, amount, role, raw: Arc::new(raw), revocable, shared })
}

impl RangesTold {
    fn read(self) -> Vec<(u64, u64)> {
        self.range.into_iter().map(|range| (range.begin, range.end)).collect()
    }
}

impl AttributeTold {
    fn read(self) -> Option<Attribute> {
        let value = match (self.text, self.scalar, self.ranges, self.set) {
            (Some(text), ..) => AttributeValue::Text(text.value),
            (_, Some(scalar), ..) => AttributeValue::Scalar(scalar.value),
            (_, _, Some(ranges), _) => AttributeValue::Ranges(ranges.read()),
            (.., Some(set)) => AttributeValue::Set(set.item),
            _ => return None,
        };
        Some(Attribute { name: self.name, value })
    }
}

/// The first call of all. Without `framework` one is made anew.
pub(super) fn subscribe(options: &MesosOptions, framework: Option<&str>) -> Value {
    let mut info = json!({
        "name": options.name,
        "user": options.user,
        "hostname": options.hostname,
        "roles": [options.role],
        "checkpoint": options.checkpoint,
        "failover_timeout": options.failover_timeout.as_secs_f64(),
        "capabilities": [
            {"type": "MULTI_ROLE"}, {"type": "PARTITION_AWARE"}, {"type": "TASK_KILLING_STATE"},
            {"type": "RESERVATION_REFINEMENT"},
        ],
    });
    if let Some(url) = &options.webui_url {
        info["webui_url"] = json!(url);
    }
    if let Some(login) = &options.login {
        info["principal"] = json!(login.principal);
    }
    let mut call = json!({"type": "SUBSCRIBE"});
    if let Some(id) = framework {
        info["id"] = json!({"value": id});
        call["framework_id"] = json!({"value": id});
    }
    call["subscribe"] = json!({"framework_info": info});
    call
}

impl Call {
    /// As it is sent.
    pub(super) fn to_json(&self, framework: &str) -> Value {
        let ids = |ids: &[String]| ids.iter().map(|id| json!({"value": id})).collect::<Vec<_>>();
        let filters = |refuse: &Duration| json!({"refuse_seconds": refuse.as_secs_f64()});
        let (kind, name, body) = match self {
            Self::Accept { offers, tasks, refuse } => {
                let launch = json!({"type": "LAUNCH", "launch": {"task_infos": tasks}});
                let body =
                    json!({"offer_ids": ids(offers), "operations": [launch], "filters": filters(refuse)});
                ("ACCEPT", "accept", body)
            }
            Self::Decline { offers, refuse } => {
                ("DECLINE", "decline", json!({"offer_ids": ids(offers), "filters": filters(refuse)}))
            }
            Self::Kill { task, agent, grace } => {
                let grace = u64::try_from(grace.as_nanos()).unwrap_or(i64::MAX as u64).min(i64::MAX as u64);
                let body = json!({
                    "task_id": {"value": task}, "agent_id": {"value": agent},
                    "kill_policy": {"grace_period": {"nanoseconds": grace}},
                });
                ("KILL", "kill", body)
            }
            Self::Reconcile { tasks } => {
                let one = |(task, agent): &(String, Option<String>)| match agent {
                    Some(agent) => json!({"task_id": {"value": task}, "agent_id": {"value": agent}}),
                    None => json!({"task_id": {"value": task}}),
                };
                ("RECONCILE", "reconcile", json!({"tasks": tasks.iter().map(one).collect::<Vec<_>>()}))
            }
            Self::Acknowledge { task, agent, uuid } => {
                let body = json!({"agent_id": {"value": agent}, "task_id": {"value": task}, "uuid": uuid});
                ("ACKNOWLEDGE", "acknowledge", body)
            }
            Self::Revive => ("REVIVE", "revive", json!({})),
            Self::Suppress => ("SUPPRESS", "suppress", json!({})),
        };
        json!({"framework_id": {"value": framework}, "type": kind, name: body})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(event: Value) -> Event {
        Event::read(event.to_string().as_bytes(), Duration::from_secs(7)).expect("an event")
    }

    /// As a real master sends it, with the empty object among its capabilities.
    #[test]
    fn what_is_unknown_does_no_harm() {
        let event = read(json!({"type": "SUBSCRIBED", "subscribed": {
            "framework_id": {"value": "f-1"}, "heartbeat_interval_seconds": 15.0,
            "master_info": {"capabilities": [{"type": "AGENT_UPDATE"}, {}], "port": 5050},
        }}));
        let Event::Subscribed { framework, heartbeat } = event else { panic!("{event:?}") };
        assert_eq!((framework.as_str(), heartbeat), ("f-1", Some(Duration::from_secs(15))));
        assert!(matches!(read(json!({"type": "OF_NEXT_YEAR", "of_next_year": [1]})), Event::Other));
        assert!(matches!(read(json!({})), Event::Other));
        assert!(matches!(read(json!({"type": "HEARTBEAT", "more": {}})), Event::Heartbeat));
        assert!(matches!(
            read(
                json!({"type": "FAILURE", "failure": {"agent_id": {"value": "a"}, "executor_id": {"value": "e"}}})
            ),
            Event::Other
        ));
        assert!(Event::read(b"no json", Duration::ZERO).is_err());
    }

    #[test]
    fn an_offer_is_read_with_its_reservations() {
        let event = read(json!({"type": "OFFERS", "offers": {"offers": [{
            "id": {"value": "o-1"}, "agent_id": {"value": "a-S0"}, "hostname": "agent-0.local",
            "url": {"scheme": "http", "address": {"hostname": "agent-0.local", "ip": "10.0.0.9", "port": 5051}, "path": "/slave(1)"},
            "allocation_info": {"role": "ops"},
            "resources": [
                {"name": "cpus", "type": "SCALAR", "scalar": {"value": 1.9996}, "allocation_info": {"role": "ops"}},
                {"name": "mem", "type": "SCALAR", "scalar": {"value": 64.0}, "reservations": [{"role": "ops", "type": "STATIC"}]},
                {"name": "ports", "type": "RANGES", "ranges": {"range": [{"begin": 1, "end": 2}]}},
                {"name": "strange", "type": "OF_NEXT_YEAR"},
            ],
            "attributes": [{"name": "rack", "type": "TEXT", "text": {"value": "r1"}}, {"name": "n", "type": "SCALAR", "scalar": {"value": 2.0}}],
        }]}}));
        let Event::Offers(offers) = event else { panic!("{event:?}") };
        let offer = &offers[0];
        assert_eq!((offer.url.to_string(), offer.role.as_str()), ("http://10.0.0.9:5051".into(), "ops"));
        assert_eq!(offer.received, Duration::from_secs(7));
        let told: Vec<_> =
            offer.resources.iter().map(|r| (r.name.as_str(), r.role.as_str(), r.amount.clone())).collect();
        assert_eq!(
            told,
            [
                ("cpus", "*", Amount::Scalar(Thousandths(2000))),
                ("mem", "ops", Amount::Scalar(Thousandths(64_000))),
                ("ports", "*", Amount::Ranges(vec![(1, 2)])),
            ]
        );
        assert_eq!(offer.attributes.len(), 2);
    }

    #[test]
    fn an_agent_that_speaks_https_is_called_by_its_name() {
        let told: OfferTold = serde_json::from_value(json!({
            "hostname": "a.local", "url": {"scheme": "https", "address": {"ip": "10.0.0.9", "port": 5051}},
        }))
        .expect("an offer");
        assert_eq!(told.read(Duration::ZERO).url.to_string(), "https://a.local:5051");
    }

    #[test]
    fn calls_name_their_framework() {
        let call = Call::Decline { offers: vec!["o-1".into()], refuse: Duration::from_secs(300) };
        assert_eq!(
            call.to_json("f-1"),
            json!({
                "framework_id": {"value": "f-1"}, "type": "DECLINE",
                "decline": {"offer_ids": [{"value": "o-1"}], "filters": {"refuse_seconds": 300.0}},
            })
        );
        let call = Call::Kill { task: "t-0".into(), agent: "a".into(), grace: Duration::MAX };
        assert_eq!(call.to_json("f")["kill"]["kill_policy"]["grace_period"]["nanoseconds"], json!(i64::MAX));
    }
}
