//! Headers and answers, from outside: packets that were put together byte by byte here.

#[cfg(test)]
mod exchanges;
#[cfg(test)]
mod find;
#[cfg(test)]
mod model;
#[cfg(test)]
mod ports;
#[cfg(test)]
mod write;
