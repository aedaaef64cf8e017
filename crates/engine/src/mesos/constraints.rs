//! On which agents a task may run: what its job says of their attributes, in the sense of Chronos.

use regex::{Regex, RegexBuilder};

use super::resources::{Attribute, AttributeValue};
use crate::{Constraint, Operator};

/// The name by which every agent has an attribute.
const HOSTNAME: &str = "hostname";
/// Most memory of one pattern, so that no job can take much by a few letters.
const PATTERN_BYTES_MAX: usize = 256 * 1024;

/// Constraints of a task, ready to be asked often.
#[derive(Clone, Debug)]
pub struct Constraints(Vec<(Constraint, Test)>);

#[derive(Clone, Debug)]
enum Test {
    Equals,
    Like(Regex),
    Unlike(Regex),
}

/// The value of a constraint is not a pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{pattern}` is not a regular expression that is known here: {why}")]
pub struct NoPattern {
    /// As it was written.
    pub pattern: String,
    /// What is wrong with it, in one line.
    pub why: String,
}

impl Constraints {
    /// All of them must hold.
    /// # Errors
    /// The first pattern that cannot be read.
    pub fn new(stated: &[Constraint]) -> Result<Self, NoPattern> {
        let test = |constraint: &Constraint| {
            let test = match constraint.operator {
                Operator::Equals => Test::Equals,
                Operator::Like => Test::Like(pattern(&constraint.value)?),
                Operator::Unlike => Test::Unlike(pattern(&constraint.value)?),
            };
            Ok((constraint.clone(), test))
        };
        stated.iter().map(test).collect::<Result<_, _>>().map(Self)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Those that do not hold on this agent.
    pub fn broken<'a>(
        &'a self,
        hostname: &'a str,
        attributes: &'a [Attribute],
    ) -> impl Iterator<Item = &'a Constraint> {
        self.0
            .iter()
            .filter(move |(constraint, test)| !test.holds(constraint, hostname, attributes))
            .map(|(constraint, _)| constraint)
    }

    /// Whether all hold on this agent.
    pub fn hold(&self, hostname: &str, attributes: &[Attribute]) -> bool {
        self.broken(hostname, attributes).next().is_none()
    }
}

impl Test {
    fn holds(&self, constraint: &Constraint, hostname: &str, attributes: &[Attribute]) -> bool {
        let mut named = attributes.iter().filter(|attribute| attribute.name == constraint.attribute);
        // Unless it says otherwise, an agent's attribute `hostname` is its name.
        let is_name = constraint.attribute == HOSTNAME
            && !attributes.iter().any(|attribute| attribute.name == HOSTNAME);
        match self {
            Self::Equals if is_name => hostname == constraint.value,
            Self::Equals => named.any(|attribute| {
                matches!(&attribute.value, AttributeValue::Text(text) if *text == constraint.value)
            }),
            Self::Like(pattern) if is_name => pattern.is_match(hostname),
            Self::Unlike(pattern) if is_name => !pattern.is_match(hostname),
            Self::Like(pattern) => named.next().and_then(|first| matches(pattern, &first.value)) == Some(true),
            Self::Unlike(pattern) => named.next().and_then(|first| matches(pattern, &first.value)) == Some(false),
        }
    }
}

/// Whether a value matches; `None` where it can do neither.
fn matches(pattern: &Regex, value: &AttributeValue) -> Option<bool> {
    match value {
        AttributeValue::Text(text) => Some(pattern.is_match(text)),
        // As Java writes them: always with a decimal point.
        AttributeValue::Scalar(number) => Some(pattern.is_match(&format!("{number:?}"))),
        AttributeValue::Set(items) => Some(items.iter().any(|item| pattern.is_match(item))),
        AttributeValue::Ranges(_) => None,
    }
}

/// The whole of a text must match. Chronos had the dialect of Java, of which this one lacks what would need to look
/// around or back; in return no pattern takes longer than the text is long.
fn pattern(text: &str) -> Result<Regex, NoPattern> {
    let read = |text: &str| RegexBuilder::new(text).size_limit(PATTERN_BYTES_MAX).build();
    // First alone, so that it cannot close the group around it.
    read(text).and_then(|_| read(&format!("^(?:{text})$"))).map_err(|error| NoPattern {
        pattern: text.into(),
        why: match error {
            regex::Error::CompiledTooBig(_) => "it is too large".into(),
            // The last line says what is wrong; those before show where.
            error => {
                let told = error.to_string();
                let last = told.lines().last().unwrap_or_default().trim();
                last.strip_prefix("error: ").unwrap_or(last).into()
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(name: &str, text: &str) -> Attribute {
        Attribute { name: name.into(), value: AttributeValue::Text(text.into()) }
    }

    fn constraint(words: &str) -> Constraint {
        let words: Vec<_> = words.splitn(3, ' ').collect();
        let operator = match words[1] {
            "EQUALS" => Operator::Equals,
            "LIKE" => Operator::Like,
            _ => Operator::Unlike,
        };
        Constraint { attribute: words[0].into(), operator, value: words[2].into() }
    }

    #[track_caller]
    fn check(words: &str, holds: bool) {
        let set = |items: &[&str]| AttributeValue::Set(items.iter().map(ToString::to_string).collect());
        let attributes = [
            text("rack", "r1"),
            text("rack", "r2"),
            Attribute { name: "level".into(), value: AttributeValue::Scalar(1.0) },
            Attribute { name: "zones".into(), value: set(&["a", "b"]) },
            Attribute { name: "ports".into(), value: AttributeValue::Ranges(vec![(1, 2)]) },
        ];
        let constraints = Constraints::new(&[constraint(words)]).expect(words);
        assert_eq!(constraints.hold("agent-1.example.org", &attributes), holds, "{words}");
    }

    #[test]
    fn equals_asks_all_texts_of_a_name_and_texts_alone() {
        check("rack EQUALS r1", true);
        check("rack EQUALS r2", true);
        check("rack EQUALS r", false);
        check("rack EQUALS r.", false);
        check("row EQUALS r1", false);
        check("level EQUALS 1.0", false);
        check("zones EQUALS a", false);
    }

    #[test]
    fn like_and_unlike_ask_the_first_of_a_name_and_all_of_it() {
        check("rack LIKE r[0-9]", true);
        check("rack LIKE r", false);
        check("rack LIKE r2", false);
        check("rack LIKE x|r1", true);
        check("rack LIKE r1|x", true);
        check("rack UNLIKE r1", false);
        check("rack UNLIKE r", true);
        check("rack UNLIKE r2", true);
        check("level LIKE 1\\.0", true);
        check("level LIKE 1", false);
        check("level UNLIKE 2.*", true);
        check("zones LIKE b", true);
        check("zones LIKE ab", false);
        check("zones UNLIKE b", false);
        check("zones UNLIKE c", true);
        // What is not there is neither; ranges are neither.
        for neither in ["row", "ports"] {
            check(&format!("{neither} LIKE .*"), false);
            check(&format!("{neither} UNLIKE x"), false);
        }
    }

    #[test]
    fn every_agent_has_its_name() {
        check("hostname EQUALS agent-1.example.org", true);
        check("hostname LIKE agent-.*", true);
        check("hostname LIKE agent", false);
        check("hostname UNLIKE agent-2.*", true);
        check("hostname UNLIKE agent-1.*", false);
        let own = [text("hostname", "another")];
        let holds = |words| Constraints::new(&[constraint(words)]).expect(words).hold("agent-1", &own);
        assert_eq!((holds("hostname EQUALS another"), holds("hostname EQUALS agent-1")), (true, false));
    }

    #[test]
    fn all_must_hold_and_those_that_do_not_are_named() {
        let stated = ["rack EQUALS r1", "row EQUALS 1", "hostname LIKE b.*"].map(constraint);
        let constraints = Constraints::new(&stated).expect("patterns");
        let attributes = [text("rack", "r1")];
        let broken: Vec<_> = constraints.broken("a", &attributes).collect();
        assert_eq!(broken, [&stated[1], &stated[2]]);
        assert!(Constraints::new(&[]).expect("none").hold("a", &attributes));
    }

    #[test]
    fn what_is_no_pattern_is_refused_with_the_reason() {
        for (pattern, why) in [
            ("(", "unclosed group"),
            ("a)|(b", "unopened group"),
            ("(?=x)y", "look-around"),
            ("(a)\\1", "backreferences"),
            ("((a{100}){100}){100}", "too large"),
        ] {
            let refused =
                Constraints::new(&[constraint(&format!("rack LIKE {pattern}"))]).expect_err(pattern);
            assert!(refused.to_string().contains(why) && refused.why.lines().count() == 1, "{refused}");
        }
        // It is only compared.
        assert!(Constraints::new(&[constraint("rack EQUALS (")]).is_ok());
    }
}
