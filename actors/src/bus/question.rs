//! What every question carries, whoever asks it.

use sandpit_messages::envelope;
use sandpit_messages::id::RequestId;
use sandpit_messages::time::{Moment, Now};

use super::Message;

/// Until when its asker listens, and an id for logs, where it does not say them itself.
pub(super) fn stamp(message: &mut Message, now: Now, until: Moment, random: u128) {
    if message.headers.get(envelope::DEADLINE).is_none() {
        let deadline = now.wall.plus(until.since(now.moment));
        message.headers.push(envelope::DEADLINE, deadline.0.to_string());
    }
    if message.headers.get(envelope::REQUEST).is_none() {
        message.headers.push(envelope::REQUEST, RequestId::minted(random).as_str());
    }
}
