//! The life of jobs, with a real catalog and store and no agents.
