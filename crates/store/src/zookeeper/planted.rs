//! Nodes of the ensemble as tests want them, whoever they belong to.

use zookeeper_client::{Acls, CreateMode, Error};

use super::Options;
use super::session::{Sessions, data};
use crate::StoreError;

/// Makes a node, with what is above it, or writes over the one that is there.
/// # Errors
/// [`StoreError::Unavailable`].
pub async fn plant(options: Options, path: &str, bytes: &[u8]) -> Result<(), StoreError> {
    let sessions = Sessions::new(options.checked()?);
    let client = sessions.looking().await?;
    let open = CreateMode::Persistent.with_acls(Acls::anyone_all());
    let planted = async {
        if let Some((above, _)) = path.rsplit_once('/') {
            client.mkdir(above, &open).await?;
        }
        match client.create(path, bytes, &open).await {
            Err(Error::NodeExists) => client.set_data(path, bytes, None).await.map(drop),
            made => made.map(drop),
        }
    };
    planted.await.map_err(|error| sessions.meaning(&error))
}

/// What is in a node.
/// # Errors
/// [`StoreError::Unavailable`].
pub async fn look(options: Options, path: &str) -> Result<Option<Vec<u8>>, StoreError> {
    let sessions = Sessions::new(options.checked()?);
    let found = data(&sessions.looking().await?, path).await;
    Ok(found.map_err(|error| sessions.meaning(&error))?.map(|(bytes, _)| bytes))
}
