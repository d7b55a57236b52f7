//! The manual pages name every key of the configurations, and no other; and the ranges that the checks hold.
#![forbid(unsafe_code)]

use control::agent::AgentConfig;
use gateway::config::Config;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

/// A key that no section knows.
const STRANGER: &str = "zzzzzzzzzzzz";

/// What a configuration knows, found out from its answers: by path, what it says of a value that is wrong.
type Schema = BTreeMap<String, String>;

#[test]
fn gateway_toml() {
    let answer = |text: &str| Config::parse(Path::new("x"), text).unwrap_err().to_string();
    let known = |answer: &str| {
        let line = answer.lines().find(|line| line.contains(&format!("unknown key {STRANGER}: ")))?;
        let (_, known) = line.split_once("known here: ").expect("no key is like the stranger");
        Some(known.split(", ").map(str::to_owned).collect())
    };
    let schema = schema(&answer, &known);
    assert!(schema.contains_key("lif.vteps") && schema.contains_key("trap.limits.arp_nd"), "{schema:?}");
    compare(&schema, include_str!("../../share/man/gateway.toml.5"));
}

#[test]
fn gateway_agent_toml() {
    let answer = |text: &str| AgentConfig::from_toml(text, "x").unwrap_err().to_string();
    let known = |answer: &str| {
        let (_, known) = answer.split_once(&format!("unknown field `{STRANGER}`, expected "))?;
        Some(known.split('`').skip(1).step_by(2).map(str::to_owned).collect())
    };
    let schema = schema(&answer, &known);
    assert!(
        schema.contains_key("interface.lif") && schema.contains_key("activation.device.tls.ca"),
        "{schema:?}"
    );
    compare(&schema, include_str!("../../share/man/gateway-agent.toml.5"));
}

/// Asks for the keys of the file, then of each of them in turn, as a table and as a list of tables.
fn schema(answer: &dyn Fn(&str) -> String, known: &dyn Fn(&str) -> Option<Vec<String>>) -> Schema {
    let mut schema = Schema::new();
    let mut sections = vec![Vec::<String>::new()];
    while let Some(path) = sections.pop() {
        let forms = |inner: &str| {
            // Innermost first; each section on the way may be a table or a list of them.
            path.iter().rev().fold(vec![inner.to_owned()], |forms, key| {
                let both =
                    |form: &String| [format!("{key} = {{ {form} }}"), format!("{key} = [{{ {form} }}]")];
                forms.iter().flat_map(both).collect()
            })
        };
        let answers = forms(&format!("{STRANGER} = 1")).iter().map(|form| answer(form)).collect::<Vec<_>>();
        if let Some(keys) = answers.iter().find_map(|answer| known(answer)) {
            sections.extend(keys.into_iter().map(|key| [path.as_slice(), &[key]].concat()));
        }
        if !path.is_empty() {
            schema.insert(path.join("."), answers.join("\n"));
        }
    }
    schema
}

/// Headings and list items of a page with the text below them, by path.
fn items(page: &str) -> BTreeMap<String, String> {
    let mut items = BTreeMap::<String, String>::new();
    let mut path = Vec::<String>::new();
    let mut depth = 0;
    for line in page.lines() {
        match line.split_once(' ').unwrap_or((line, "")) {
            (".Ss", heading) => path = vec![heading.trim_matches(['[', ']']).to_owned()],
            (".Sh", _) => path.clear(),
            (".Bl", _) => depth += 1,
            (".El", _) => {
                path.truncate(depth);
                depth -= 1;
                continue;
            }
            (".It", key) if !path.is_empty() => {
                path.truncate(depth);
                path.push(key.strip_prefix("Cm ").expect("keys are .It Cm").to_owned());
            }
            _ => {}
        }
        if !path.is_empty() {
            let text = items.entry(path.join(".")).or_default();
            text.push_str(line);
            text.push(' ');
        }
    }
    items
}

fn compare(schema: &Schema, page: &str) {
    let items = items(page);
    let (known, documented): (BTreeSet<_>, BTreeSet<_>) = (schema.keys().collect(), items.keys().collect());
    let missing = known.difference(&documented).collect::<Vec<_>>();
    let stale = documented.difference(&known).collect::<Vec<_>>();
    assert!(missing.is_empty() && stale.is_empty(), "not in the page: {missing:?}; no keys: {stale:?}");
    let section = |path: &str| schema.keys().any(|key| key.starts_with(&format!("{path}.")));
    for (path, answer) in schema.iter().filter(|(path, _)| !section(path)) {
        let text = &items[path];
        // What else is missing is said there too.
        let key = path.rsplit('.').next().unwrap();
        let wrong = |line: &&str| line.contains(&format!(": {key} = ")) && line.contains(" is wrong: ");
        for range in answer.lines().filter(wrong).flat_map(ranges) {
            assert!(text.to_lowercase().contains(&range), "{path}: the page does not say {range:?}: {text}");
        }
        let said = ["default", "Required", "exactly one", "both or none"];
        assert!(
            said.iter().any(|word| text.contains(word)) || LIKE_VLAN.contains(&path.as_str()),
            "{path}: neither required nor with a default: {text}"
        );
    }
}

/// Of which `vlan` says that there is exactly one of them.
const LIKE_VLAN: [&str; 2] = ["lif.vni", "lif.untagged"];

/// "from 1 to 9" in "a number from 1 to 9, or none"
fn ranges(text: &str) -> Vec<String> {
    let words = text.split([' ', ',', ':', '\n']).collect::<Vec<_>>();
    let numbers = |words: &&[&str]| {
        let number = |word: &str| word.parse::<u64>().is_ok();
        words[0] == "from" && number(words[1]) && words[2] == "to" && number(words[3])
    };
    words.windows(4).filter(numbers).map(|words| words.join(" ")).collect()
}
