//! A TOML document as sections that collect every problem instead of stopping at the first.

use super::Problem;
use std::cell::RefCell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use toml::Spanned;
use toml::de::{DeTable, DeValue};

/// Characters of a line that are shown in a message about it.
const SHOWN: usize = 60;

/// A value and the line it stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At<T> {
    pub(super) value: T,
    pub(super) line: usize,
}

/// What is wrong so far, and what turns offsets into lines.
pub(super) struct Problems {
    file: PathBuf,
    text: String,
    line_starts: Vec<usize>,
    /// Lines the parser could not read: what else seems wrong there, or seems missing, may only follow from that.
    unread: RefCell<Vec<usize>>,
    list: RefCell<Vec<Problem>>,
}

impl Problems {
    pub(super) fn new(file: &Path, text: &str) -> Self {
        let line_starts =
            std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect::<Vec<_>>();
        Self {
            file: file.to_owned(),
            text: text.to_owned(),
            line_starts,
            unread: RefCell::default(),
            list: RefCell::default(),
        }
    }

    pub(super) fn line(&self, span: &Range<usize>) -> usize {
        self.line_starts.partition_point(|start| *start <= span.start)
    }

    /// Notes a syntax error; its line if it is the first one there.
    pub(super) fn syntax(&self, error: &toml::de::Error) -> Option<usize> {
        let line = error.span().map_or(1, |span| self.line(&span));
        if self.unread.borrow().contains(&line) {
            return None;
        }
        self.unread.borrow_mut().push(line);
        // The parser names no key.
        let shown = self.text.lines().nth(line.saturating_sub(1)).unwrap_or_default();
        let shown: String = shown.trim().chars().take(SHOWN).collect();
        self.push(line, format!("not TOML: {}: {shown}", error.message()));
        Some(line)
    }

    /// Notes a value that is wrong by itself.
    pub(super) fn value(&self, line: usize, message: impl Into<String>) {
        if !self.unread.borrow().contains(&line) {
            self.push(line, message.into());
        }
    }

    /// Notes what is missing or contradicts another line; silent where part of the file could not be read.
    pub(super) fn rule(&self, line: usize, message: impl Into<String>) {
        if self.unread.borrow().is_empty() {
            self.push(line, message.into());
        }
    }

    /// Whether nothing is wrong so far.
    pub(super) fn is_empty(&self) -> bool {
        self.list.borrow().is_empty()
    }

    /// All problems in the order of the file.
    pub(super) fn into_list(self) -> Vec<Problem> {
        let mut list = self.list.into_inner();
        list.sort_by(|a, b| (a.line, &a.message).cmp(&(b.line, &b.message)));
        list.dedup();
        list
    }

    fn push(&self, line: usize, message: String) {
        self.list.borrow_mut().push(Problem { file: self.file.clone(), line, message });
    }
}

/// A table of the document. Each key is asked for once; [`Section::finish`] reports those nobody asked for.
pub(super) struct Section<'d> {
    /// As in the file: `[trap]`, `[[lif]] "red"`.
    pub(super) title: String,
    /// Where it begins.
    pub(super) line: usize,
    table: &'d DeTable<'d>,
    problems: &'d Problems,
    known: RefCell<Vec<&'static str>>,
}

impl<'d> Section<'d> {
    pub(super) fn new(
        title: impl Into<String>,
        line: usize,
        table: &'d DeTable<'d>,
        problems: &'d Problems,
    ) -> Self {
        Self { title: title.into(), line, table, problems, known: RefCell::default() }
    }

    /// The value of `key`, if it is there and `parse` takes it; `expected` says what to write instead.
    pub(super) fn optional<T>(
        &self,
        key: &'static str,
        expected: &str,
        parse: impl FnOnce(&DeValue<'d>) -> Option<T>,
    ) -> Option<At<T>> {
        let value = self.raw(key)?;
        let line = self.problems.line(&value.span());
        let parsed = parse(value.get_ref());
        if parsed.is_none() {
            let shown = show(value.get_ref());
            self.problems.value(line, format!("{}: {key} = {shown} is wrong: write {expected}", self.title));
        }
        parsed.map(|value| At { value, line })
    }

    /// The same for a key that must be there.
    pub(super) fn required<T>(
        &self,
        key: &'static str,
        expected: &str,
        parse: impl FnOnce(&DeValue<'d>) -> Option<T>,
    ) -> Option<At<T>> {
        if !self.table.contains_key(key) {
            self.problems
                .rule(self.line, format!("{}: {key} is missing: write {key} = {expected}", self.title));
        }
        self.optional(key, expected, parse)
    }

    /// The elements of an array, each taken by `parse`; `expected` says what each should be.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        expected: &str,
        may_be_empty: bool,
        mut parse: impl FnMut(&DeValue<'d>) -> Option<T>,
    ) -> Option<Vec<At<T>>> {
        let value = self.raw(key)?;
        let Some(array) = value.get_ref().as_array().filter(|array| may_be_empty || !array.is_empty()) else {
            let (line, shown) = (self.problems.line(&value.span()), show(value.get_ref()));
            let message = format!("{}: {key} = {shown} is wrong: write [ … ], each {expected}", self.title);
            self.problems.value(line, message);
            return None;
        };
        let mut all = Vec::new();
        for element in array {
            let line = self.problems.line(&element.span());
            match parse(element.get_ref()) {
                Some(value) => all.push(At { value, line }),
                None => {
                    let shown = show(element.get_ref());
                    let message = format!("{}: {key}: {shown} is wrong: write {expected}", self.title);
                    self.problems.value(line, message);
                }
            }
        }
        Some(all)
    }

    /// The table `key`, if it is there.
    pub(super) fn table(&self, key: &'static str, title: &str) -> Option<Section<'d>> {
        let value = self.raw(key)?;
        let line = self.problems.line(&value.span());
        match value.get_ref() {
            DeValue::Table(table) => Some(Section::new(title, line, table, self.problems)),
            DeValue::Array(array)
                if !array.is_empty() && array.iter().all(|item| item.get_ref().is_table()) =>
            {
                self.problems.value(
                    line,
                    format!("{title} stands here more than once, as [[{key}]]: write one {title}"),
                );
                None
            }
            _ => {
                self.problems.value(line, format!("{key} is not a table: write {title}"));
                None
            }
        }
    }

    /// The tables of the array `key`, written like `example`; none if it is absent.
    pub(super) fn tables(&self, key: &'static str, title: &str, example: &str) -> Vec<Section<'d>> {
        let Some(value) = self.raw(key) else { return Vec::new() };
        let line = self.problems.line(&value.span());
        let wrong = |line| {
            self.problems.value(line, format!("{key} is not an array of tables: write {example}"));
        };
        let Some(array) = value.get_ref().as_array() else {
            wrong(line);
            return Vec::new();
        };
        let mut all = Vec::new();
        for element in array {
            let line = self.problems.line(&element.span());
            match element.get_ref() {
                DeValue::Table(table) => all.push(Section::new(title, line, table, self.problems)),
                _ => wrong(line),
            }
        }
        all
    }

    /// Whether the key is there, right or wrong.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.contains_key(key)
    }

    /// Reports the keys nobody asked for.
    pub(super) fn finish(self) {
        let known = self.known.borrow();
        for key in self.table.keys().filter(|key| !known.contains(&key.get_ref().as_ref())) {
            let line = self.problems.line(&key.span());
            let hint = match nearest(key.get_ref(), &known) {
                Some(name) => format!("did you mean {name}?"),
                None => format!("known here: {}", known.join(", ")),
            };
            self.problems.value(line, format!("{}: unknown key {}: {hint}", self.title, key.get_ref()));
        }
    }

    fn raw(&self, key: &'static str) -> Option<&'d Spanned<DeValue<'d>>> {
        self.known.borrow_mut().push(key);
        self.table.get(key)
    }
}

/// A value as it may stand in a message.
fn show(value: &DeValue<'_>) -> String {
    const LONGEST: usize = 60;
    let shown = match value {
        DeValue::String(text) => format!("{text:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.as_str().to_owned(),
        DeValue::Boolean(value) => value.to_string(),
        DeValue::Datetime(value) => value.to_string(),
        DeValue::Array(array) if array.is_empty() => "[]".to_owned(),
        DeValue::Array(_) => "[ … ]".to_owned(),
        DeValue::Table(_) => "{ … }".to_owned(),
    };
    match shown.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}…", &shown[..end]),
        None => shown,
    }
}

/// The known name that `key` most probably stands for.
fn nearest<'k>(key: &str, known: &[&'k str]) -> Option<&'k str> {
    let (distance, name) = known.iter().map(|name| (distance(key, name), *name)).min()?;
    (distance <= 2 && distance < name.chars().count()).then_some(name)
}

/// Edit distance (Levenshtein).
fn distance(a: &str, b: &str) -> usize {
    let b = b.chars().collect::<Vec<_>>();
    let mut row = (0..=b.len()).collect::<Vec<_>>();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let cost = if x == *y { diagonal } else { 1 + diagonal.min(row[j]).min(row[j + 1]) };
            diagonal = row[j + 1];
            row[j + 1] = cost;
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances() {
        for (a, b, want) in [("", "abc", 3), ("mtu", "mtu", 0), ("vlna", "vlan", 2), ("devce", "device", 1)] {
            assert_eq!(distance(a, b), want, "{a} {b}");
            assert_eq!(distance(b, a), want, "{b} {a}");
        }
        assert_eq!(nearest("devce", &["name", "device"]), Some("device"));
        assert_eq!(nearest("colour", &["name", "device"]), None);
    }

    #[test]
    fn lines_of_offsets() {
        let problems = Problems::new(Path::new("x"), "a\nbc\n\nd");
        for (offset, line) in [(0, 1), (1, 1), (2, 2), (4, 2), (5, 3), (6, 4)] {
            assert_eq!(problems.line(&(offset..offset)), line, "offset {offset}");
        }
    }
}
