//! One core: journal, memtable, version cache, requests, recovery.
