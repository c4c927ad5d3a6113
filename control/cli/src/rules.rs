//! `tachyon rules`: checks, applies and shows the rules file.

use crate::{
    arguments::{Form, RulesFile},
    connection::Connection,
    failure::{Exit, Failure},
    json, output,
    table::{count, plural},
};
use serde_json::{Value, json};
use std::{fs, io, path::Path};
use tachyon_config::{Diagnostic, Rules};
use tachyon_proto::v1;

/// Says what is wrong with a rules file. Control is asked, because it knows the registered topics and its own version;
/// where none can be reached, the file is checked by itself.
pub(crate) async fn check(
    connection: impl Future<Output = Result<Connection, Failure>>,
    file: &RulesFile,
) -> Result<(), Failure> {
    let (file_name, text) = read(&file.file)?;
    let asked = match connection.await {
        Ok(mut connection) => {
            connection.check_rules(v1::CheckRulesRequest { text: text.clone(), file_name: file_name.clone() }).await
        }
        Err(failure) => Err(failure),
    };
    let verdict = match asked {
        Ok(answer) => by_control(&answer),
        Err(failure) if failure.exit == Exit::Unreachable => {
            output::message(&format!(
                "note: only the file was checked, not what it would do to this node ({} at {})",
                failure.what, failure.place
            ));
            by_itself(&file_name, &text)
        }
        Err(failure) => return Err(failure),
    };
    let accepted = verdict.problems.is_empty();
    show_problems(&verdict.problems, &verdict.warnings, file.form);
    if file.form.json {
        output::json(&json!({
            "file": file_name,
            "accepted": accepted,
            "checked_by": verdict.checked_by,
            "problems": json::problems(&verdict.problems),
            "warnings": json::problems(&verdict.warnings),
            "summary": verdict.summary,
        }));
    } else if accepted {
        output::data(format!("{file_name}: can be applied: {}\n", verdict.told));
    }
    if accepted { Ok(()) } else { Err(refused("would be refused", verdict.problems.len(), file_name)) }
}

/// Puts a rules file in force.
pub(crate) async fn apply(
    connection: impl Future<Output = Result<Connection, Failure>>,
    file: &RulesFile,
) -> Result<(), Failure> {
    let (file_name, text) = read(&file.file)?;
    let call = v1::ApplyRulesRequest { text, file_name: file_name.clone() };
    let answer = connection.await?.apply_rules(call).await?;
    show_problems(&answer.problems, &answer.warnings, file.form);
    if file.form.json {
        output::json(&json!({
            "file": file_name,
            "accepted": answer.accepted,
            "version": answer.accepted.then_some(answer.version),
            "in_force": answer.in_force,
            "problems": json::problems(&answer.problems),
            "warnings": json::problems(&answer.warnings),
            "summary": answer.summary.as_ref().map(json::summary),
        }));
    } else if answer.accepted {
        let state = if answer.in_force { "in force" } else { "stored" };
        let told = answer.summary.as_ref().map(told).unwrap_or_default();
        output::data(format!("{file_name}: {state} as version {}: {told}\n", answer.version));
    }
    if !answer.accepted {
        return Err(refused("were refused, nothing was changed", answer.problems.len(), file_name));
    }
    if !answer.in_force {
        output::message("warning: tachyond is not connected; it takes these rules when it comes back");
    }
    Ok(())
}

/// Prints the rules file in force as it was applied.
pub(crate) async fn show(connection: &mut Connection, form: Form) -> Result<(), Failure> {
    let answer = connection.show_rules().await?;
    if form.json {
        output::json(&json!({
            "file": answer.file_name,
            "text": answer.text,
            "version": answer.version,
            "applied_unix_s": answer.applied_unix_s,
        }));
    } else if answer.applied_unix_s == 0 {
        output::message("No rules were applied yet, so nothing may pass; apply some with `tachyon rules apply FILE`.");
    } else {
        output::message(&format!("# {}, ruleset version {}", answer.file_name, answer.version));
        output::data(answer.text);
    }
    Ok(())
}

/// Its name for messages, and its text.
fn read(file: &Path) -> Result<(String, String), Failure> {
    let stdin = file == Path::new("-");
    let name = if stdin { "standard input".to_owned() } else { file.display().to_string() };
    match if stdin { io::read_to_string(io::stdin()) } else { fs::read_to_string(file) } {
        Ok(text) => Ok((name, text)),
        Err(error) => Err(Failure {
            exit: Exit::Usage,
            what: format!("cannot read the rules file: {error}"),
            place: name,
            help: "name a text file that exists and that this user may read".to_owned(),
        }),
    }
}

/// What a check came to.
struct Verdict {
    checked_by: &'static str,
    problems: Vec<v1::Problem>,
    warnings: Vec<v1::Problem>,
    summary: Value,
    told: String,
}

fn by_control(answer: &v1::CheckRulesResponse) -> Verdict {
    Verdict {
        checked_by: "control",
        problems: answer.problems.clone(),
        warnings: answer.warnings.clone(),
        summary: answer.summary.as_ref().map_or(Value::Null, json::summary),
        told: answer.summary.as_ref().map(told).unwrap_or_default(),
    }
}

fn by_itself(file_name: &str, text: &str) -> Verdict {
    let problems = |found: Vec<Diagnostic>| found.iter().map(problem).collect();
    let (problems, warnings, rules) = match Rules::parse(file_name, text) {
        Ok((rules, warnings)) => (Vec::new(), problems(warnings), Some(rules)),
        Err(errors) => (problems(errors), Vec::new(), None),
    };
    let counts = rules.map(|rules| (rules.topics.len() as u64, rules.identities.len() as u64));
    Verdict {
        checked_by: "file",
        problems,
        warnings,
        summary: counts
            .map_or(Value::Null, |(topics, identities)| json!({ "topic_rules": topics, "identities": identities })),
        told: counts.map(|(topics, identities)| entries(topics, identities)).unwrap_or_default(),
    }
}

fn problem(found: &Diagnostic) -> v1::Problem {
    v1::Problem {
        line: found.line,
        column: found.column,
        message: found.message.clone(),
        help: found.help.clone(),
        rendered: found.to_string(),
    }
}

/// In JSON they stand in the document.
fn show_problems(problems: &[v1::Problem], warnings: &[v1::Problem], form: Form) {
    if !form.json {
        for problem in warnings.iter().chain(problems) {
            output::message(&format!("{}\n", problem.rendered.trim_end()));
        }
    }
}

fn refused(outcome: &str, problems: usize, file_name: String) -> Failure {
    let number = plural(problems as u64, "problem", "problems");
    Failure {
        exit: Exit::Refused,
        what: format!("these rules {outcome}: {number}"),
        place: file_name,
        help: "mend the file; `tachyon rules check` says when it is good".to_owned(),
    }
}

fn entries(topic_rules: u64, identities: u64) -> String {
    let topics = plural(topic_rules, "topic rule", "topic rules");
    format!("{topics}, {}", plural(identities, "identity", "identities"))
}

fn told(summary: &v1::RulesSummary) -> String {
    format!(
        "{}; {} known, {} without a rule, {} ended, image of {} bytes",
        entries(summary.topic_rules.into(), summary.identities.into()),
        plural(summary.topics_known.into(), "topic", "topics"),
        count(summary.topics_unmatched.into()),
        plural(summary.sessions_ended.into(), "session", "sessions"),
        count(summary.image_bytes),
    )
}
