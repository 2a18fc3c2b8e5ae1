//! What operators do with what waits. Releasing is publication's ordinary way, with an event that admission has made of
//! the held body; here is only what comes before and after it.

use super::{Publication, STORE_DEADLINE, within};
use crate::event::Key;
use crate::store::{Decision, State, StoreError, Waiting};

impl Publication {
    /// What waits under a key. `None` if nothing does.
    ///
    /// # Errors
    /// If the store is away.
    pub async fn waiting(&self, key: Key) -> Result<Option<Waiting>, StoreError> {
        within(STORE_DEADLINE, self.shared.store.waiting(key)).await
    }

    /// Decides that what waits under a key is never announced: later deliveries are answered `success`, for as long as
    /// the retention. `false` if nothing waits there.
    ///
    /// # Errors
    /// If the store is away.
    pub async fn drop_waiting(&self, key: Key, reason: String) -> Result<bool, StoreError> {
        self.decide(key, String::new(), State::Dropped, reason).await
    }

    /// Writes that the event of a held notification was announced, so that later deliveries of it, which acceptance
    /// refuses as before, are answered `success`.
    ///
    /// # Errors
    /// If the store is away.
    pub async fn settle_released(
        &self,
        key: Key,
        notify_id: String,
        reason: String,
    ) -> Result<bool, StoreError> {
        self.decide(key, notify_id, State::Recorded, reason).await
    }

    async fn decide(
        &self,
        key: Key,
        notify_id: String,
        state: State,
        reason: String,
    ) -> Result<bool, StoreError> {
        let at = self.shared.clock.now();
        let expires_at = at.plus(self.shared.config.retention);
        let decision = Decision { key, notify_id, state, reason, at, expires_at };
        within(STORE_DEADLINE, self.shared.store.decide(decision)).await
    }
}
