//! A few ways to begin, for people who ask their assistant what it can do here.

use rmcp::ErrorData;
use rmcp::model::{GetPromptResult, JsonObject, Prompt, PromptArgument, PromptMessage, Role};

pub(super) fn all() -> Vec<Prompt> {
    let argument = |name: &str, about: &str, required| {
        PromptArgument::new(name).with_description(about).with_required(required)
    };
    vec![
        Prompt::new("first-steps", Some("Create a sandbox, run code in it and end it."), None)
            .with_title("First steps"),
        Prompt::new(
            "backtest",
            Some("Try a trading idea on daily prices in a sandbox, and report honestly."),
            Some(vec![
                argument(
                    "idea",
                    "The idea in a sentence, as in `buy what rose for 20 days`.",
                    true,
                ),
                argument(
                    "symbols",
                    "Symbols, separated by commas; without them you choose.",
                    false,
                ),
            ]),
        )
        .with_title("Backtest an idea"),
        Prompt::new(
            "look-after",
            Some("Look at a sandbox that does not do what it should."),
            Some(vec![argument("sandbox_id", "Its id, or its name.", true)]),
        )
        .with_title("Look after a sandbox"),
    ]
}

/// One of them, with its arguments filled in.
///
/// # Errors
/// If there is none of this name, or an argument is missing.
pub(super) fn of(name: &str, arguments: &JsonObject) -> Result<GetPromptResult, ErrorData> {
    let given = |name: &str| arguments.get(name).and_then(serde_json::Value::as_str);
    let demanded = |name: &str| {
        given(name).filter(|text| !text.trim().is_empty()).ok_or_else(|| {
            ErrorData::invalid_params(format!("the argument `{name}` is missing"), None)
        })
    };
    let text = match name {
        "first-steps" => "Show me what a sandbox can do. Create one with create_e2b_sandbox \
            (template base, name first-steps). Run a Python cell in it with execute_e2b_process \
            that computes something, and a second cell that uses a variable of the first. Run a \
            shell line that fails, and show that its exit code is a result. Look at it with \
            get_e2b_sandbox_status. End it with terminate_e2b_sandbox. After each step say in one \
            sentence what came back."
            .to_owned(),
        "backtest" => {
            let idea = demanded("idea")?;
            let symbols = given("symbols").unwrap_or("symbols of your choice");
            format!(
                "Try this idea: {idea}. Use {symbols}. Create a sandbox of template trading, look \
                 at what market data lies in /data/market, and write the test as Python cells: \
                 signals from what was known the day before, costs of at least 5 basis points a \
                 trade, the first half of the days to choose parameters and the second to judge \
                 them. Report return, volatility, largest loss from a peak and number of trades \
                 of both halves, next to buying and holding. If there is no data for a symbol, \
                 say so and do not invent any. End the sandbox when you are done."
            )
        }
        "look-after" => {
            let sandbox = demanded("sandbox_id")?;
            format!(
                "Sandbox {sandbox} does not do what it should. Look at it with \
                 get_e2b_sandbox_status, read sandpit://sandbox/{sandbox}/logs, and run `ps` and \
                 `df -h` in it with execute_e2b_process. Say what is wrong, what was tried, and \
                 whether to go on in it or to end it and create another. End nothing before I say \
                 so."
            )
        }
        other => {
            let other: String = other.chars().take(64).collect();
            return Err(ErrorData::invalid_params(format!("there is no prompt `{other}`"), None));
        }
    };
    Ok(GetPromptResult::new(vec![PromptMessage::new_text(Role::User, text)]))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn each_prompt_is_there_and_says_what_it_lacks() {
        for prompt in all() {
            let mut arguments = JsonObject::new();
            for argument in prompt.arguments.into_iter().flatten() {
                if argument.required == Some(true) {
                    assert!(of(&prompt.name, &arguments).is_err(), "{}", prompt.name);
                    arguments.insert(argument.name, json!("something"));
                }
            }
            assert_eq!(of(&prompt.name, &arguments).unwrap().messages.len(), 1);
        }
        assert!(of("dance", &JsonObject::new()).is_err());
    }
}
