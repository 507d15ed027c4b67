//! What tests of a server that becomes a jail share, in the ring and in the soak: the two machines and the product ([`trial`]), what a new base
//! system has to have done to a jail ([`upgraded`]), a controller killed in every step ([`struck`]), from a beginning that is kept ([`kept`]).

pub mod kept;
pub mod trial;
pub mod upgraded;
