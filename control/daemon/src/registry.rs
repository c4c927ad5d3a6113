//! The persistent registry: what must outlive every process. Names keep their numbers for good.
//!
//! One embedded database file. Everything that belongs together is one transaction, and a transaction is on the disk
//! before anyone is told its outcome. All of it is read once, at the start; afterwards it is only written.

use crate::record::{Attachment, RulesText, Session, Subscriber};
use anyhow::Context;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition, Value, WriteTransaction};
use serde::{Serialize, de::DeserializeOwned};
use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

const TOPICS: TableDefinition<'_, u32, &str> = TableDefinition::new("topics");
const PRINCIPALS: TableDefinition<'_, u32, &str> = TableDefinition::new("principals");
const SESSIONS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("sessions");
const SUBSCRIBERS: TableDefinition<'_, u32, &[u8]> = TableDefinition::new("subscribers");
/// Session slot to how often it was given out.
const GENERATIONS: TableDefinition<'_, u32, u32> = TableDefinition::new("generations");
const NUMBERS: TableDefinition<'_, &str, u64> = TableDefinition::new("numbers");
const RECORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("records");

const VERSION: &str = "ruleset version";
const EGRESS: &str = "egress sessions";
const FORMAT: &str = "format";
const RULES: &str = "rules";
const ATTACHMENT: &str = "attachment";
/// Raised when a table changes its meaning.
const FORMAT_NUMBER: u64 = 1;

/// One thing to write.
#[derive(Debug)]
pub(crate) enum Change<'a> {
    /// A new topic.
    Topic(u32, &'a str),
    /// A new principal.
    Principal(u32, &'a str),
    /// A new or changed session.
    Session(&'a Session),
    /// A session that is no more.
    SessionGone(u32),
    /// How often a session slot was given out.
    Generation(u32, u32),
    /// A new or changed subscriber.
    Subscriber(&'a Subscriber),
    /// A subscriber that is no more.
    SubscriberGone(u32),
    /// Egress sessions that were ever given out.
    EgressSessions(u64),
    /// Version of the last ruleset.
    Version(u64),
    /// The rules in force.
    Rules(&'a RulesText),
    /// The start of `tachyond` that has everything.
    Attachment(&'a Attachment),
}

/// Everything in the registry.
#[derive(Debug, Default)]
pub(crate) struct Stored {
    /// By id - 1: ids are given out from 1 without gaps.
    pub(crate) topics: Vec<String>,
    /// By row.
    pub(crate) principals: Vec<String>,
    /// By session id.
    pub(crate) sessions: BTreeMap<u32, Session>,
    /// By slot.
    pub(crate) subscribers: BTreeMap<u32, Subscriber>,
    /// By session slot.
    pub(crate) generations: BTreeMap<u32, u32>,
    /// Egress sessions that were ever given out.
    pub(crate) egress_sessions: u64,
    /// Version of the last ruleset; 0 = none yet.
    pub(crate) version: u64,
    /// The rules in force.
    pub(crate) rules: Option<RulesText>,
    /// The start of `tachyond` that has everything.
    pub(crate) attachment: Option<Attachment>,
}

/// The open database. Only one process can hold it.
#[derive(Debug)]
pub(crate) struct Registry {
    database: Database,
}

impl Registry {
    /// Opens or makes `registry.redb` in `state_dir`, readable by its owner alone, and reads it.
    ///
    /// # Errors
    /// The folder or file cannot be made or read, another process holds it, or it was written by a later version.
    pub(crate) fn open(state_dir: &Path) -> anyhow::Result<(Self, Stored)> {
        if !state_dir.exists() {
            let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(state_dir);
            made.with_context(|| format!("cannot make {}; set state_dir in the control file", state_dir.display()))?;
        }
        let path = state_dir.join("registry.redb");
        let file = OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = file.with_context(|| format!("cannot open {}", path.display()))?;
        let database = redb::Builder::new()
            .create_file(file)
            .with_context(|| format!("cannot use {}; is another tachyon-control running on it?", path.display()))?;
        Self::of(database).with_context(|| format!("cannot read {}", path.display()))
    }

    fn of(database: Database) -> anyhow::Result<(Self, Stored)> {
        let registry = Self { database };
        let stored = registry.read()?;
        Ok((registry, stored))
    }

    /// One that is empty, on what a test gives for a disk.
    #[cfg(test)]
    pub(crate) fn on(disk: impl redb::StorageBackend) -> (Self, Stored) {
        let database = redb::Builder::new().create_with_backend(disk).expect("a database");
        Self::of(database).expect("an empty registry")
    }

    /// Writes changes, all or none, and returns once they are on the disk.
    ///
    /// # Errors
    /// What the database says.
    pub(crate) fn commit(&self, changes: &[Change<'_>]) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        for change in changes {
            write(&transaction, change)?;
        }
        Ok(transaction.commit()?)
    }

    fn read(&self) -> anyhow::Result<Stored> {
        self.make_tables()?;
        let transaction = self.database.begin_read()?;
        let mut stored = Stored::default();
        for (table, names) in [(TOPICS, &mut stored.topics), (PRINCIPALS, &mut stored.principals)] {
            for entry in transaction.open_table(table)?.iter()? {
                names.push(entry?.1.value().to_owned());
            }
        }
        for entry in transaction.open_table(SESSIONS)?.iter()? {
            let (id, bytes) = entry?;
            stored.sessions.insert(id.value(), decode(bytes.value())?);
        }
        for entry in transaction.open_table(SUBSCRIBERS)?.iter()? {
            let (slot, bytes) = entry?;
            stored.subscribers.insert(slot.value(), decode(bytes.value())?);
        }
        for entry in transaction.open_table(GENERATIONS)?.iter()? {
            let (slot, generation) = entry?;
            stored.generations.insert(slot.value(), generation.value());
        }
        let numbers = transaction.open_table(NUMBERS)?;
        let number = |name| numbers.get(name).map(|found| found.map_or(0, |value| value.value()));
        let format = number(FORMAT)?;
        anyhow::ensure!(format == FORMAT_NUMBER, "format {format}, this build reads {FORMAT_NUMBER}");
        stored.egress_sessions = number(EGRESS)?;
        stored.version = number(VERSION)?;
        let records = transaction.open_table(RECORDS)?;
        stored.rules = records.get(RULES)?.map(|bytes| decode(bytes.value())).transpose()?;
        stored.attachment = records.get(ATTACHMENT)?.map(|bytes| decode(bytes.value())).transpose()?;
        Ok(stored)
    }

    fn make_tables(&self) -> Result<(), redb::Error> {
        let transaction = self.database.begin_write()?;
        {
            transaction.open_table(TOPICS)?;
            transaction.open_table(PRINCIPALS)?;
            transaction.open_table(SESSIONS)?;
            transaction.open_table(SUBSCRIBERS)?;
            transaction.open_table(GENERATIONS)?;
            transaction.open_table(RECORDS)?;
            let mut numbers = transaction.open_table(NUMBERS)?;
            if numbers.get(FORMAT)?.is_none() {
                numbers.insert(FORMAT, FORMAT_NUMBER)?;
            }
        }
        Ok(transaction.commit()?)
    }
}

fn write(transaction: &WriteTransaction, change: &Change<'_>) -> Result<(), redb::Error> {
    match change {
        Change::Topic(id, name) => insert(transaction, TOPICS, id, name),
        Change::Principal(row, name) => insert(transaction, PRINCIPALS, row, name),
        Change::Session(session) => insert(transaction, SESSIONS, &session.session_id, &&*encode(session)),
        Change::SessionGone(id) => remove(transaction, SESSIONS, *id),
        Change::Generation(slot, generation) => insert(transaction, GENERATIONS, slot, generation),
        Change::Subscriber(subscriber) => insert(transaction, SUBSCRIBERS, &subscriber.slot, &&*encode(subscriber)),
        Change::SubscriberGone(slot) => remove(transaction, SUBSCRIBERS, *slot),
        Change::EgressSessions(count) => insert(transaction, NUMBERS, &EGRESS, count),
        Change::Version(version) => insert(transaction, NUMBERS, &VERSION, version),
        Change::Rules(rules) => insert(transaction, RECORDS, &RULES, &&*encode(rules)),
        Change::Attachment(attachment) => insert(transaction, RECORDS, &ATTACHMENT, &&*encode(attachment)),
    }
}

fn insert<K: redb::Key + 'static, V: Value + 'static>(
    transaction: &WriteTransaction,
    table: TableDefinition<'_, K, V>,
    key: &K::SelfType<'_>,
    value: &V::SelfType<'_>,
) -> Result<(), redb::Error> {
    transaction.open_table(table)?.insert(key, value)?;
    Ok(())
}

fn remove(
    transaction: &WriteTransaction,
    table: TableDefinition<'_, u32, &'static [u8]>,
    key: u32,
) -> Result<(), redb::Error> {
    transaction.open_table(table)?.remove(key)?;
    Ok(())
}

fn encode<T: Serialize>(record: &T) -> Vec<u8> {
    serde_json::to_vec(record).expect("records have string keys and no values that JSON lacks")
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> anyhow::Result<T> {
    serde_json::from_slice(bytes).context("a record is damaged or of another version")
}
