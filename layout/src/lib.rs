//! The bytes of Thermocline: on disk and in shared memory.
