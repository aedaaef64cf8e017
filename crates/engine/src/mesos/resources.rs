//! What Mesos puts up, and what a task asks of it. Values alone: how they travel is for the wire.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use super::place::AgentUrl;
pub use crate::share::Thousandths;
use crate::{Constraint, Share, TaskSpec};

/// What an agent puts up.
#[derive(Clone, Debug, PartialEq)]
pub struct Offer {
    /// Its id; it is accepted or declined by it.
    pub id: String,
    /// Id of the agent.
    pub agent: String,
    /// What the agent calls itself.
    pub hostname: String,
    /// Where the agent answers.
    pub url: AgentUrl,
    /// The role to which it is put up. What is accepted together must be put up to the same one.
    pub role: String,
    /// What there is.
    pub resources: Vec<Resource>,
    /// What the agent says of itself.
    pub attributes: Vec<Attribute>,
    /// When it came, since boot.
    pub received: Duration,
}

/// A part of what an agent puts up.
#[derive(Clone, Debug, PartialEq)]
pub struct Resource {
    /// `cpus`, `mem`, `disk`, `ports`, ...
    pub name: String,
    /// How much of it.
    pub amount: Amount,
    /// For whom it is reserved; `*` for nobody.
    pub role: String,
    /// As it was put up, with reservations, disk and allocation: it goes back as it came, but for the amount.
    pub raw: Arc<Value>,
    /// Whether it may be taken away at any time.
    pub revocable: bool,
    /// Whether several tasks have the same.
    pub shared: bool,
}

/// How much there is of something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Amount {
    /// So much, which can be divided.
    Scalar(Thousandths),
    /// These numbers, both ends included.
    Ranges(Vec<(u64, u64)>),
    /// These words.
    Set(Vec<String>),
}

/// What an agent says of itself.
#[derive(Clone, Debug, PartialEq)]
pub struct Attribute {
    /// Its name; not always the only one of that name.
    pub name: String,
    /// What it says.
    pub value: AttributeValue,
}

/// The value of an attribute.
#[derive(Clone, Debug, PartialEq)]
pub enum AttributeValue {
    /// A text.
    Text(String),
    /// A number.
    Scalar(f64),
    /// Ranges of numbers.
    Ranges(Vec<(u64, u64)>),
    /// A set of words.
    Set(Vec<String>),
}

/// What a task asks for.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Demand {
    /// Processors.
    pub cpus: Thousandths,
    /// Memory, in MB.
    pub mem: Thousandths,
    /// Disk, in MB.
    pub disk: Thousandths,
    /// Which agents will do.
    pub constraints: Vec<Constraint>,
}

impl Demand {
    /// Names of what is asked for, in the order of [`Demand::amounts`].
    pub const NAMES: [&str; 3] = ["cpus", "mem", "disk"];

    /// That of a task; `default` is for what it does not say.
    pub fn of(spec: &TaskSpec, default: Share) -> Self {
        let Share { cpus, mem, disk } = spec.share;
        Self {
            cpus: cpus.or(default.cpus).unwrap_or_default(),
            mem: mem.or(default.mem).unwrap_or_default(),
            disk: disk.or(default.disk).unwrap_or_default(),
            constraints: spec.constraints.clone(),
        }
    }

    /// How much of each of [`Demand::NAMES`], in thousandths.
    pub fn amounts(&self) -> [u64; 3] {
        [self.cpus, self.mem, self.disk].map(|amount| amount.0)
    }
}

impl Resource {
    /// Who may use what is reserved for nobody.
    pub const ANYONE: &str = "*";

    /// How much of it a task that is launched under `role` may have, if it can be divided and is there to stay. A
    /// reservation for `a` is one for `a/b` too. Disks of their own and volumes that outlive tasks are for who asks for them.
    pub fn divisible(&self, role: &str) -> Option<Thousandths> {
        let Amount::Scalar(amount) = self.amount else { return None };
        let rest = role.strip_prefix(self.role.as_str());
        let ours =
            self.role == Self::ANYONE || rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
        let special =
            |disk: &Value| ["persistence", "volume", "source"].iter().any(|key| disk.get(key).is_some());
        let plain = !self.revocable && !self.shared && !self.raw.get("disk").is_some_and(special);
        (ours && plain).then_some(amount)
    }

    /// Whether both are parts of one that was put up.
    pub fn is_of(&self, other: &Self) -> bool {
        self.name == other.name && Arc::ptr_eq(&self.raw, &other.raw)
    }

    /// So much of it.
    pub fn part(&self, amount: Thousandths) -> Self {
        Self { amount: Amount::Scalar(amount), ..self.clone() }
    }

    /// As it goes back to Mesos: as it came, with the amount that it has now where that can be another.
    pub fn to_json(&self) -> Value {
        let mut raw = Value::clone(&self.raw);
        if let (Amount::Scalar(amount), Value::Object(fields)) = (&self.amount, &mut raw) {
            fields.insert("scalar".into(), json!({"value": amount.number()}));
        }
        raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cpus(role: &str, raw: Value) -> Resource {
        let amount = Amount::Scalar(Thousandths::nearest(1.5));
        Resource {
            name: "cpus".into(),
            amount,
            role: role.into(),
            raw: raw.into(),
            revocable: false,
            shared: false,
        }
    }

    #[test]
    fn what_is_for_others_or_special_is_not_divided() {
        let plain = json!({});
        for (role, ours) in
            [("*", true), ("ops", true), ("ops/night", true), ("op", false), ("ops/day", false)]
        {
            let told = cpus(role, plain.clone()).divisible("ops/night").is_some();
            assert_eq!(told, ours, "{role}");
        }
        let disk = |disk: Value| cpus("*", json!({"disk": disk})).divisible("*");
        assert!(disk(json!({})).is_some());
        assert_eq!(disk(json!({"source": {"type": "MOUNT"}})), None);
        assert_eq!(disk(json!({"persistence": {"id": "p"}})), None);
        assert_eq!(Resource { revocable: true, ..cpus("*", plain.clone()) }.divisible("*"), None);
        assert_eq!(Resource { shared: true, ..cpus("*", plain.clone()) }.divisible("*"), None);
        assert_eq!(
            Resource { amount: Amount::Ranges(vec![(1, 2)]), ..cpus("*", plain) }.divisible("*"),
            None
        );
    }

    #[test]
    fn a_part_goes_back_as_it_came() {
        let raw = json!({"name": "cpus", "type": "SCALAR", "scalar": {"value": 1.5}, "allocation_info": {"role": "ops"}});
        let part = cpus("*", raw).part(Thousandths::nearest(0.2)).to_json();
        assert_eq!(
            part,
            json!({"name": "cpus", "type": "SCALAR", "scalar": {"value": 0.2}, "allocation_info": {"role": "ops"}})
        );
    }
}
