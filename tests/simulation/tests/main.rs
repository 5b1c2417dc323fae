//! Seeds, and the scripts that found bugs became.

mod scripts;
mod seeds;
