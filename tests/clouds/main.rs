//! Sandboxes at clouds: the provider `e2b` against a cloud with true books. What happens on rough
//! ways is seen against nodes, in `faces`.

mod life;
