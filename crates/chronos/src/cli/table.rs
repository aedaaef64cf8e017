//! Columns for people: aligned, and cut to the width of the terminal as far as sentences can be cut.

use std::io::IsTerminal;

use super::failure::printable;

/// Rows under headings.
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

/// Between columns.
const GAP: usize = 2;
/// No column is cut below this: enough to tell rows apart.
const WIDTH_MIN: usize = 8;
/// Columns that give way: what people wrote, and sentences. The others hold names, keys and times, which are of no use in
/// part: a table of those alone may be wider than the terminal.
const GIVE_WAY: [&str; 12] =
    ["COMMAND", "WHY", "WHEN", "NOTE", "NOTES", "WHAT", "SAYS", "ABOUT", "CHANGED", "VALUE", "BOUNDS", "TO"];

impl Table {
    pub(crate) fn new(headings: &[&str]) -> Self {
        Self { rows: vec![headings.iter().map(|text| text.to_uppercase()).collect()] }
    }

    pub(crate) fn row(&mut self, cells: impl IntoIterator<Item = String>) {
        self.rows.push(cells.into_iter().map(|cell| printable(&cell).replace(['\n', '\t'], " ")).collect());
    }

    /// The whole table, where cut lines end with `…`. A `width` of `None` cuts nothing.
    pub(crate) fn render(&self, width: Option<usize>) -> String {
        let widths = self.fit(width);
        let mut text = String::new();
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(&widths) {
                line.push_str(&cut(cell, *width));
                line.push_str(&" ".repeat(width.saturating_sub(cell.chars().count()) + GAP));
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }

    /// Widths of the columns: of those that give way the widest does first, until the table fits.
    fn fit(&self, width: Option<usize>) -> Vec<usize> {
        let columns = self.rows[0].len();
        let mut widths: Vec<usize> = (0..columns)
            .map(|i| self.rows.iter().map(|row| row[i].chars().count()).max().unwrap_or(0))
            .collect();
        let Some(room) = width.map(|w| w.saturating_sub(GAP * columns.saturating_sub(1))) else {
            return widths;
        };
        let gives_way: Vec<bool> = self.rows[0].iter().map(|cell| GIVE_WAY.contains(&&**cell)).collect();
        while widths.iter().sum::<usize>() > room {
            let may =
                widths.iter_mut().zip(&gives_way).filter(|(w, gives_way)| **gives_way && **w > WIDTH_MIN);
            let Some((widest, _)) = may.max() else { break };
            *widest -= 1;
        }
        widths
    }

    /// Prints to stdout, cut only if that is a terminal.
    pub(crate) fn print(&self) -> std::io::Result<()> {
        let stdout = std::io::stdout();
        let width =
            if stdout.is_terminal() { terminal_size::terminal_size().map(|(w, _)| w.0.into()) } else { None };
        super::out(self.render(width).as_bytes())
    }
}

fn cut(text: &str, width: usize) -> String {
    if text.chars().count() <= width {
        return text.into();
    }
    text.chars().take(width.saturating_sub(1)).chain(['…']).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&["job", "command"]);
        table.row(["a".into(), "echo a rather long command\nwith\u{1b}[2J more".into()]);
        table.row(["longer-name".into(), "true".into()]);
        table
    }

    #[test]
    fn columns_are_aligned_and_control_characters_do_no_harm() {
        let text = "JOB          COMMAND\n\
                    a            echo a rather long command with\\u{1b}[2J more\n\
                    longer-name  true\n";
        assert_eq!(table().render(None), text);
    }

    #[test]
    fn what_can_be_read_in_part_gives_way() {
        let text = "JOB          COMMAND\n\
                    a            echo a rather …\n\
                    longer-name  true\n";
        assert_eq!(table().render(Some(28)), text);
        let least = "longer-name".len() + GAP + WIDTH_MIN;
        assert!(table().render(Some(1)).lines().all(|line| line.chars().count() <= least));
    }

    #[test]
    fn keys_and_times_are_never_cut() {
        let mut table = Table::new(&["run", "job", "due", "ended", "outcome", "attempts", "why"]);
        let due = "2030-01-01T02:30:00Z";
        let (key, job) = ("1204-s1-1893465000-0", "nightly-report-of-sales-by-region");
        let why = "exit status 3, and then a sentence of the engine about it";
        table.row([key, job, due, due, "failed", "3", why].map(Into::into));
        let text = table.render(Some(80));
        let line = text.lines().nth(1).expect("a row");
        assert!([key, job, due].iter().all(|whole| line.contains(whole)), "{text}");
        assert!(line.ends_with("exit st…"), "{text}");
        let mut table = Table::new(&["job", "when", "command"]);
        table.row(
            ["a-name-of-some-length", "after all of these parents", "a command with words"].map(Into::into),
        );
        let text = table.render(Some(60));
        assert!(text.lines().all(|line| line.chars().count() <= 60), "{text}");
        assert!(text.contains("a-name-of-some-length  after all of thes…  a command with w…"), "{text}");
    }
}
