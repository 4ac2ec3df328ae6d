//! stub
pub struct SimulatedFileSystem;
