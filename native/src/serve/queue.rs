//! Requests on their way to the engine, which serves one at a time.

use super::completion::{Completion, Running, Told};
use incoder::Cancel;
use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;
use tokio::sync::mpsc::{UnboundedSender, unbounded_channel};

/// A request in the queue.
#[derive(Debug)]
pub struct Job {
    pub completion: Completion,
    pub told: UnboundedSender<Told>,
    pub cancel: Cancel,
    pub queued: Instant,
}

impl Job {
    /// Whether nobody waits for the answer any more.
    pub fn is_gone(&self) -> bool {
        self.cancel.is_cancelled() || self.told.is_closed()
    }
}

/// First come, first served, but of one client the newest.
#[derive(Debug, Default)]
pub struct Queue {
    jobs: Mutex<VecDeque<Job>>,
    more: Condvar,
}

impl Queue {
    /// Appends a request. It leaves the queue when what is returned is dropped.
    pub fn submit(&self, completion: Completion) -> Running {
        let (told, receiver) = unbounded_channel();
        let cancel = Cancel::default();
        let running = Running::new(receiver, cancel.clone());
        let mut jobs = self.jobs();
        // The documents of clients that left are not kept until it is their turn.
        jobs.retain(|job| !job.is_gone());
        jobs.push_back(Job { completion, told, cancel, queued: Instant::now() });
        self.more.notify_one();
        running
    }

    /// The next request that somebody waits for; waits until there is one.
    pub fn take(&self) -> Job {
        let mut jobs = self.jobs();
        loop {
            jobs.retain(|job| !job.is_gone());
            if let Some(first) = jobs.front() {
                let is_same = |job: &Job| job.completion.client == first.completion.client;
                let newest = match &first.completion.client {
                    Some(_) => jobs.iter().rposition(is_same).unwrap_or(0),
                    None => 0,
                };
                if let Some(job) = jobs.remove(newest) {
                    return job;
                }
            }
            jobs = self.more.wait(jobs).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Requests that wait.
    pub fn waiting(&self) -> usize {
        self.jobs().iter().filter(|job| !job.is_gone()).count()
    }

    fn jobs(&self) -> MutexGuard<'_, VecDeque<Job>> {
        self.jobs.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::completion::{Document, Options};
    use incoder::Sampling;

    fn completion(text: &str, client: Option<&str>) -> Completion {
        let options = Options {
            max_tokens: 1,
            sampling: Sampling::greedy(),
            stop: Vec::new(),
            candidates: 1,
            ignore_eos: false,
            single_line: false,
            min_indentation: 0,
            time_limit: None,
            logprobs: None,
            echo: false,
        };
        Completion { document: Document::Text(text.to_owned()), options, client: client.map(String::from) }
    }

    fn taken(queue: &Queue) -> String {
        match queue.take().completion.document {
            Document::Text(text) => text,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn first_come_first_served_and_of_one_client_the_newest() {
        let queue = Queue::default();
        let asked = [("a", None), ("b", Some("x")), ("c", None), ("d", Some("x"))];
        let _running: Vec<Running> =
            asked.map(|(text, client)| queue.submit(completion(text, client))).into_iter().collect();
        assert_eq!(queue.waiting(), 4);
        assert_eq!([(); 4].map(|()| taken(&queue)), ["a", "d", "b", "c"]);
    }

    #[test]
    fn whoever_left_is_not_served() {
        let queue = Queue::default();
        let gone = queue.submit(completion("gone", None));
        let stays = queue.submit(completion("stays", None));
        drop(gone);
        assert_eq!(queue.waiting(), 1);
        assert_eq!(taken(&queue), "stays");
        drop(stays);
    }
}
