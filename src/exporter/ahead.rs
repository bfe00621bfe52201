//! Layers travel to their registries while later steps run.
//!
//! Only what is certain goes early: layers of the chain that is exported, as blobs that the image will have whatever comes
//! after them. Nothing names them, so a build that fails leaves no image. The exporter asks for the same blobs at the end:
//! it finds them, or waits for the one that is on its way. What goes wrong here goes wrong there again and is reported there.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, Once, PoisonError};

use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

use super::image::{self, Layer};
use super::push::{self, PARALLEL};
use super::{ExportContext, OutputKind, OutputSpec, blocking};
use crate::base::events::Outcome;
use crate::base::{Digest, Event, Events};
use crate::oci::{Reference, media_type};
use crate::registry::Client;
use crate::solver::LayersReady;
use crate::source::image::ImageSource;
use crate::store::{LayerId, Store};

/// A chain whose layers have their blobs.
struct Finished {
    chain: Vec<LayerId>,
    /// It is a base image.
    base: bool,
}

/// Uploads under way during one build.
pub struct Ahead {
    finished: mpsc::UnboundedSender<Finished>,
    end: oneshot::Sender<Outcome>,
    ended: tokio::task::JoinHandle<()>,
}

impl Ahead {
    /// Gets ready to push for these outputs; `None` if none of them is pushed.
    #[must_use]
    pub fn start(
        store: &Store,
        client: &Client,
        source: &ImageSource,
        events: &Events,
        specs: &[OutputSpec],
    ) -> Option<Self> {
        let mut places = Vec::new();
        let mut known = HashSet::new();
        for spec in specs.iter().filter(|spec| spec.kind == OutputKind::Image && spec.push) {
            for name in &spec.names {
                if spec.insecure {
                    client.set_insecure(&name.domain);
                }
                if known.insert(name.repository()) {
                    places.push(Place::new(name, spec, events));
                }
            }
        }
        if places.is_empty() {
            return None;
        }
        let uploads = Uploads {
            places: places.into_iter().map(Arc::new).collect(),
            work: Arc::new(Work {
                store: store.clone(),
                client: client.clone(),
                source: source.clone(),
                slots: Semaphore::new(PARALLEL),
            }),
            running: JoinSet::new(),
        };
        let (finished, receiver) = mpsc::unbounded_channel();
        let (end, ending) = oneshot::channel();
        let ended = tokio::spawn(uploads.run(receiver, ending));
        Some(Self { finished, end, ended })
    }

    /// Who is to be told when a chain's layers are ready: the chain, and whether it is a base image.
    #[must_use]
    pub fn listener(&self) -> LayersReady {
        let finished = self.finished.clone();
        Arc::new(move |chain, base| drop(finished.send(Finished { chain: chain.to_vec(), base })))
    }

    /// Stops what is still on its way, and has the registries forget what they have of it.
    pub async fn end(self, outcome: Outcome) {
        if self.end.send(outcome).is_ok() {
            let _ = self.ended.await;
        }
    }
}

/// A repository that gets the layers.
struct Place {
    name: Reference,
    spec: OutputSpec,
    /// Shows the uploads.
    vertex: Digest,
    /// Announces the vertex when there is something to show.
    events: Events,
    all_events: Events,
    shown: Arc<Once>,
    /// Digests that were begun; `None` after something went wrong.
    begun: Mutex<Option<HashSet<Digest>>>,
}

impl Place {
    fn new(name: &Reference, spec: &OutputSpec, events: &Events) -> Self {
        let title = format!("pushing layers to {} ahead of the image", name.repository());
        let (vertex, shown) = (Digest::sha256(&title), Arc::new(Once::new()));
        let announcing = {
            let (vertex, shown, events) = (vertex.clone(), Arc::clone(&shown), events.clone());
            Events::new(move |event: Event| {
                shown.call_once(|| {
                    events.vertex(&vertex, title.clone(), Vec::new());
                    events.started(&vertex);
                });
                events.send(event);
            })
        };
        Self {
            name: name.clone(),
            spec: spec.clone(),
            vertex,
            events: announcing,
            all_events: events.clone(),
            shown,
            begun: Mutex::new(Some(HashSet::new())),
        }
    }

    /// Whether the blob is to be sent there, and nobody does it yet.
    fn begin(&self, digest: &Digest) -> bool {
        let mut begun = self.begun.lock().unwrap_or_else(PoisonError::into_inner);
        begun.as_mut().is_some_and(|begun| begun.insert(digest.clone()))
    }

    /// What failed once is left to the exporter, which says why.
    fn give_up(&self) {
        *self.begun.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

/// What uploads need.
struct Work {
    store: Store,
    client: Client,
    source: ImageSource,
    slots: Semaphore,
}

struct Uploads {
    places: Vec<Arc<Place>>,
    work: Arc<Work>,
    running: JoinSet<()>,
}

impl Uploads {
    async fn run(mut self, mut finished: mpsc::UnboundedReceiver<Finished>, mut ending: oneshot::Receiver<Outcome>) {
        let outcome = loop {
            tokio::select! {
                outcome = &mut ending => break outcome.unwrap_or(Outcome::Canceled),
                Some(next) = finished.recv() => self.begin(next).await,
                Some(_) = self.running.join_next() => {}
            }
        };
        self.running.shutdown().await;
        self.work.client.abandon_uploads().await;
        for place in &self.places {
            if place.shown.is_completed() {
                place.all_events.completed(&place.vertex, outcome.clone());
            }
        }
    }

    async fn begin(&mut self, finished: Finished) {
        let store = self.work.store.clone();
        let Finished { chain, base } = finished;
        let records =
            blocking(move || Ok(chain.iter().map(|id| store.layer(id)).collect::<Result<Vec<_>, _>>()?)).await;
        for mut record in records.unwrap_or_default() {
            image::prefer_named(&mut record, &self.work.source);
            for place in &self.places {
                let Some(descriptor) = image::settled(&record, &place.spec.image, base) else { continue };
                if media_type::is_foreign(&descriptor.media_type) || !place.begin(&descriptor.digest) {
                    continue;
                }
                let layer = Layer { id: record.id.clone(), descriptor, remotes: record.remotes.clone() };
                let (place, work) = (Arc::clone(place), Arc::clone(&self.work));
                self.running.spawn(async move {
                    let Ok(_slot) = work.slots.acquire().await else { return };
                    let context = ExportContext {
                        store: &work.store,
                        client: &work.client,
                        source: &work.source,
                        events: &place.events,
                        epoch: None,
                        threads: 1,
                    };
                    if push::push_layer(&context, &place.name, &layer, &place.vertex).await.is_err() {
                        place.give_up();
                    }
                });
            }
        }
    }
}
