//! One or more tensors that are one matrix on the GPU, so that one dispatch multiplies all of them.

use super::weights::BLOCK_ROWS;
use crate::arch::recipe::{Op, Weight};
use std::ops::Range;

/// The order of a matrix's rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Order {
    /// Tensor after tensor.
    Stacked,
    /// The same, except that in the heads of the first two tensors the two values of a pair that is rotated together lie side by
    /// side: one thread then has both. Scores are sums over a head, so they do not depend on the order.
    Pairs { head_dim: usize },
    /// A row of the first tensor, then one of the second: one thread has a gate and what it gates.
    Alternating,
}

/// One or more tensors [rows, inputs] that become one matrix.
#[derive(Debug, Clone)]
pub(super) struct Stack {
    pub names: Vec<String>,
    /// For each tensor the rows before it, and at the end the number of all.
    pub starts: Vec<usize>,
    pub inputs: usize,
    pub order: Order,
    /// Values from one token's outputs to the next token's, in the buffer that the matrix writes.
    pub stride: usize,
}

impl Stack {
    /// The matrix of an operation; `None` where it has none. `head_dim` is given where queries and keys are rotated.
    pub fn of(op: &Op, head_dim: Option<usize>) -> Option<Self> {
        if let Some(Weight { name, rows, inputs }) = op.table() {
            let stride = rows.next_multiple_of(BLOCK_ROWS);
            let (names, starts) = (vec![name.clone()], vec![0, *rows]);
            return Some(Self { names, starts, inputs: *inputs, order: Order::Stacked, stride });
        }
        let linears = op.linears();
        let inputs = linears.first()?.weight.inputs;
        let (mut starts, mut stride) = (vec![0], 0);
        for linear in &linears {
            stride += linear.weight.rows;
            starts.push(stride);
        }
        let order = match (op, head_dim) {
            (Op::QueryKeyValue { .. }, Some(head_dim)) => Order::Pairs { head_dim },
            (Op::GatedSilu { .. }, _) => Order::Alternating,
            _ => Order::Stacked,
        };
        let names = linears.iter().map(|linear| linear.weight.name.clone()).collect();
        Some(Self { names, starts, inputs, order, stride })
    }

    pub fn rows(&self) -> usize {
        self.starts.last().copied().unwrap_or_default()
    }

    /// The tensor that a row of the matrix comes from, and its row there.
    pub fn source(&self, row: usize) -> (usize, usize) {
        if self.order == Order::Alternating {
            return (row % self.names.len(), row / self.names.len());
        }
        let part = self.starts.iter().rposition(|&start| start <= row).unwrap_or_default();
        let within = row - self.starts[part];
        match self.order {
            Order::Pairs { head_dim } if part < 2 => {
                let (head, i) = (within / head_dim, within % head_dim);
                (part, head * head_dim + i % 2 * (head_dim / 2) + i / 2)
            }
            _ => (part, within),
        }
    }

    /// `rows` of the matrix as runs of rows that a tensor has one after the other.
    pub fn runs(&self, rows: Range<usize>) -> Vec<Run> {
        let mut runs: Vec<Run> = Vec::new();
        for row in rows.clone() {
            let (part, from) = self.source(row);
            let to = row - rows.start;
            // Where two runs alternate, the last but one is continued.
            let continued = runs.iter_mut().rev().take(2).find(|run| run.part == part && run.from.end == from);
            match continued {
                Some(run) if run.from.len() == 1 => {
                    run.step = to - run.to;
                    run.from.end += 1;
                }
                Some(run) if run.to + run.from.len() * run.step == to => run.from.end += 1,
                _ => runs.push(Run { part, from: from..from + 1, to, step: 1 }),
            }
        }
        runs
    }

    /// The values of vectors that have one for each row of the tensors, in the order of the matrix's rows.
    pub fn ordered(&self, vectors: &[Vec<f32>]) -> Vec<f32> {
        (0..self.rows()).map(|row| self.source(row)).map(|(part, row)| vectors[part][row]).collect()
    }
}

/// Rows `from` of tensor number `part`, which go to every `step`-th row from `to` on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Run {
    pub part: usize,
    pub from: Range<usize>,
    pub to: usize,
    pub step: usize,
}

impl Run {
    /// Copies `rows`, each of `width` values, from the run's row `first` on to their places in `out`.
    pub fn place<T: Copy>(&self, rows: &[T], first: usize, width: usize, out: &mut [T]) {
        let to = self.to + (first - self.from.start) * self.step;
        for (i, row) in rows.chunks_exact(width.max(1)).enumerate() {
            out[(to + i * self.step) * width..][..width].copy_from_slice(row);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn stack(order: Order, rows: &[usize]) -> Stack {
        let starts = (0..=rows.len()).map(|i| rows[..i].iter().sum()).collect();
        let names = (0..rows.len()).map(|i| i.to_string()).collect();
        Stack { names, starts, inputs: 8, order, stride: 0 }
    }

    #[test]
    fn rows_are_where_the_kernels_expect_them() {
        let sources = |stack: Stack| (0..stack.rows()).map(|row| stack.source(row)).collect::<Vec<_>>();
        assert_eq!(sources(stack(Order::Stacked, &[2, 1])), [(0, 0), (0, 1), (1, 0)]);
        assert_eq!(sources(stack(Order::Alternating, &[2, 2])), [(0, 0), (1, 0), (0, 1), (1, 1)]);
        let pairs = sources(stack(Order::Pairs { head_dim: 4 }, &[8, 4, 4]));
        let rows: Vec<usize> = pairs.iter().map(|(_, row)| *row).collect();
        assert_eq!(rows, [0, 2, 1, 3, 4, 6, 5, 7, 0, 2, 1, 3, 0, 1, 2, 3]);
    }

    proptest! {
        /// Whatever part of a matrix is read, the runs put every row where it belongs.
        #[test]
        fn runs_say_the_same_as_sources(kind in 0..3, heads in 1usize..4, start in 0usize..90, count in 0usize..90) {
            let (order, rows) = match kind {
                0 => (Order::Stacked, vec![16 * heads, 40, 24]),
                1 => (Order::Alternating, vec![24 * heads; 2]),
                _ => (Order::Pairs { head_dim: 16 }, vec![32 * heads, 16, 16]),
            };
            let stack = stack(order, &rows);
            let start = start.min(stack.rows());
            let rows = start..(start + count).min(stack.rows());
            let mut placed = vec![None; rows.len()];
            for run in stack.runs(rows.clone()) {
                let values: Vec<_> = run.from.clone().map(|row| Some((run.part, row))).collect();
                run.place(&values, run.from.start, 1, &mut placed);
            }
            let expected: Vec<_> = rows.map(|row| Some(stack.source(row))).collect();
            prop_assert_eq!(placed, expected);
        }
    }
}
