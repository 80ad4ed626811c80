//! A `&mut` parameter cannot be in the key.

use cached_core::coordinator_cached;

#[coordinator_cached(name = "payment", version = n)]
async fn read_into(n: u32, out: &mut Vec<u32>) -> Result<usize, String> {
    out.push(n);
    Ok(out.len())
}

#[coordinator_cached(name = "order", version = n, identifier = (&out, length))]
async fn as_it_stands<'a>(n: u32, out: &'a mut [u32], length: usize) -> Result<usize, String> {
    out[0] = n;
    Ok(length)
}

#[coordinator_cached(name = "user", version = n)]
async fn inside(n: u32, (out, _): (Option<&mut u32>, u8)) -> Result<u32, String> {
    if let Some(out) = out {
        *out = n;
    }
    Ok(n)
}

macro_rules! of_a_macro {
    ($out:ty) => {
        #[coordinator_cached(name = "region", version = n)]
        async fn of_a_macro(n: u32, out: $out) -> Result<u32, String> {
            *out = n;
            Ok(n)
        }
    };
}
of_a_macro!(&mut u32);

#[derive(serde::Serialize)]
struct Client(u32);

impl Client {
    #[coordinator_cached(name = "client", version = n, identifier = self)]
    async fn receiver(&mut self, n: u32) -> Result<u32, String> {
        self.0 += n;
        Ok(n)
    }
}

fn main() {
    drop(async { read_into(1, &mut Vec::new()).await });
    drop(async { as_it_stands(1, &mut [0], 1).await });
    drop(async { inside(1, (None, 2)).await });
    drop(async { of_a_macro(1, &mut 2).await });
    drop(async { Client(1).receiver(2).await });
}
