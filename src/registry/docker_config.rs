//! Docker's `config.json` and containers' `auth.json`.
