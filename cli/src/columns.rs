//! Text in columns, by the rule of Go's `text/tabwriter` ("elastic tabstops"), which gives kubectl its look.
//!
//! A cell is text that a tab ends; a column is a run of consecutive lines that have a cell there, and is as wide as
//! its widest cell plus the padding. What follows the last tab of a line belongs to no column.

use unicode_width::UnicodeWidthStr as _;

/// kubectl's lists: at least six wide, three spaces between.
pub(crate) const LIST: Layout = Layout { width_min: 6, padding: 3 };
/// kubectl's `describe`: two spaces between.
pub(crate) const DESCRIBE: Layout = Layout { width_min: 0, padding: 2 };

/// How wide columns are.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    width_min: usize,
    padding: usize,
}

impl Layout {
    /// Aligns `text`, whose cells are ended by tabs.
    pub(crate) fn align(self, text: &str) -> String {
        let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split('\t').collect()).collect();
        let mut widths: Vec<Vec<usize>> = lines.iter().map(|cells| vec![0; cells.len().saturating_sub(1)]).collect();
        let columns = widths.iter().map(Vec::len).max().unwrap_or(0);
        for column in 0..columns {
            let mut from = 0;
            while from < lines.len() {
                let until = (from..lines.len()).find(|&i| widths[i].len() <= column).unwrap_or(lines.len());
                let widest = lines[from..until].iter().map(|cells| visible_width(cells[column])).max();
                let width = widest.map_or(0, |w| (w + self.padding).max(self.width_min));
                widths[from..until].iter_mut().for_each(|line| line[column] = width);
                from = until + 1;
            }
        }
        let mut out = String::with_capacity(text.len() * 2);
        for (cells, widths) in lines.iter().zip(&widths) {
            self.put_line(&mut out, cells, widths);
        }
        out
    }

    fn put_line(self, out: &mut String, cells: &[&str], widths: &[usize]) {
        for (i, cell) in cells.iter().enumerate() {
            out.push_str(cell);
            if let Some(width) = widths.get(i) {
                out.extend(std::iter::repeat_n(' ', width.saturating_sub(visible_width(cell))));
            }
        }
        out.push('\n');
    }
}

/// A table that may grow line by line (`-w`): columns only widen.
#[derive(Debug, Default)]
pub(crate) struct Growing {
    widths: Vec<usize>,
}

impl Growing {
    /// Columns that begin this wide, so that later rows do not move them.
    pub(crate) fn of_widths(widths: &[usize]) -> Self {
        Self { widths: widths.to_vec() }
    }

    /// These rows, aligned with all that came before.
    pub(crate) fn rows(&mut self, rows: &[Vec<String>]) -> String {
        for row in rows {
            self.widths.resize(self.widths.len().max(row.len()), LIST.width_min);
            for (width, cell) in self.widths.iter_mut().zip(row) {
                *width = (*width).max(visible_width(cell) + LIST.padding);
            }
        }
        let mut out = String::new();
        for row in rows {
            let cells: Vec<&str> = row.iter().map(String::as_str).collect();
            LIST.put_line(&mut out, &cells, &self.widths[..row.len().saturating_sub(1)]);
        }
        out
    }
}

/// Columns on a terminal; colours take none.
fn visible_width(text: &str) -> usize {
    if !text.contains('\u{1b}') {
        return text.width();
    }
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        plain.push_str(before);
        rest = after.split_once('m').map_or("", |(_, tail)| tail);
    }
    plain.push_str(rest);
    plain.width()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_column_ends_where_a_line_has_no_cell_for_it() {
        let text = "Name:\tweb\nLabels:\ta=b\n\tlonger-key=c\nIPs:\n  IP:\t10.0.0.1\n";
        let expected = "Name:    web\nLabels:  a=b\n         longer-key=c\nIPs:\n  IP:  10.0.0.1\n";
        assert_eq!(DESCRIBE.align(text), expected);
    }

    #[test]
    fn a_list_has_three_spaces_between_columns_and_none_at_the_end() {
        let rows =
            [vec!["NAME".to_owned(), "AGE".into(), "IP".into()], vec!["web".into(), "5s".into(), "<none>".into()]];
        assert_eq!(Growing::default().rows(&rows), "NAME   AGE   IP\nweb    5s    <none>\n");
    }

    #[test]
    fn later_rows_keep_the_columns_of_earlier_ones() {
        let mut table = Growing::default();
        table.rows(&[vec!["a-long-name".into(), "1".into()]]);
        assert_eq!(table.rows(&[vec!["b".into(), "2".into()]]), "b             2\n");
    }

    #[test]
    fn colours_take_no_room() {
        assert_eq!(visible_width("\u{1b}[32mRunning\u{1b}[0m"), 7);
        assert_eq!(visible_width("日本"), 4);
    }
}
