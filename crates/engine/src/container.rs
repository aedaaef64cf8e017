//! What a task's container is to be, whichever engine makes it.

/// A container. What it says of users, environment and limits comes from the rest of the task.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Container {
    /// Who is to make it.
    pub kind: ContainerKind,
    /// Its image, as one would name it to `docker run`.
    pub image: String,
    /// Whether the image is fetched anew although one is there.
    pub force_pull: bool,
    /// What it sees of the network.
    pub network: Network,
    /// Names of networks: with [`Network::User`] those that it joins, at least one.
    pub networks: Vec<String>,
    /// What the networks of a cluster are told: the network's name, a key, a value.
    pub network_labels: Vec<(String, String, String)>,
    /// Ports of the machine that lead to its own.
    pub ports: Vec<Port>,
    /// What is mounted into it.
    pub volumes: Vec<Volume>,
    /// Options of `docker run`, without their dashes, in order.
    pub parameters: Vec<(String, String)>,
}

/// Who makes a container.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ContainerKind {
    /// A Docker Engine.
    #[default]
    Docker,
    /// The containerizer of Mesos.
    Mesos,
}

/// Why a container of [`ContainerKind::Mesos`] is not run by any engine here.
pub const NO_MESOS: &str = "MESOS is the containerizer of Mesos, and no Mesos runs tasks here";
/// What to do about that.
pub const NO_MESOS_HINT: &str = "write DOCKER, the image is the same";

/// What a container sees of the network.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Network {
    /// All that the machine sees.
    #[default]
    Host,
    /// A network of this machine's containers.
    Bridge,
    /// Nothing.
    None,
    /// Networks that somebody made, by name.
    User,
}

/// A port of the machine that leads to one of the container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Of the machine; 0 for any that is free.
    pub host: u16,
    /// Of the container.
    pub container: u16,
    /// `tcp`, `udp` or `sctp`.
    pub protocol: String,
}

/// What is mounted into a container.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// Where it is seen: an absolute path.
    pub container_path: String,
    /// What is seen there.
    pub source: VolumeSource,
    /// Whether nothing there can be changed.
    pub read_only: bool,
}

/// What is mounted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum VolumeSource {
    /// Nothing yet: a place that lives as long as the container.
    Empty,
    /// A path of the machine, or without a slash at its beginning the name of a volume.
    Host(String),
    /// A volume of a driver.
    External {
        /// Its name.
        name: String,
        /// Its driver.
        driver: String,
        /// What the driver is told, should it have to make it.
        options: Vec<(String, String)>,
    },
}
