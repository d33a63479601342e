//! `xfs-admin`: the administrator's tool. Nouns first, then verbs.

mod arguments;
mod check;
mod doctor;
mod drain;
mod endpoints;
mod find;
mod hand_over;
mod jobs;
mod leases;
mod lists;
mod members;
mod numbers;
mod osds;
mod outcome;
mod render;
mod scrub;
mod show_osd;
mod status;
mod top;
mod volumes;

use std::process::ExitCode;

use clap::Parser as _;
use proto::mrc::JobSet;
use shell::admin::Admin;

use arguments::{
    Arguments, Command, ConfigVerb, JobVerb, LeaseVerb, MrcVerb, OsdVerb, PgVerb, ScrubVerb,
    SessionVerb, VolumeVerb,
};
use find::Found;
use outcome::{Done, Failure};

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("can't start the runtime: {error}")))
        .and_then(|runtime| runtime.block_on(run(&arguments)));
    outcome::finish(result, arguments.output)
}

async fn run(arguments: &Arguments) -> Result<Done, Failure> {
    if let Command::Config(ConfigVerb::Check { file }) = &arguments.command {
        return check::run(file);
    }
    let found = find::cluster(arguments)?;
    let admin = Admin::new(found.identity.clone(), found.addresses.clone());
    perform(&arguments.command, &admin, &found).await
}

async fn perform(command: &Command, admin: &Admin, found: &Found) -> Result<Done, Failure> {
    match command {
        Command::Doctor => doctor::run(admin, found).await,
        Command::Status => status::run(admin, found).await,
        Command::Top { once } => top::run(admin, found, *once).await,
        Command::Metrics => endpoints::run(admin, found).await,
        Command::Volume(VolumeVerb::Create(create)) => volumes::create(admin, create).await,
        Command::Volume(VolumeVerb::List) => volumes::list(admin).await,
        Command::Volume(VolumeVerb::Set(set)) => volumes::set(admin, set).await,
        Command::Volume(VolumeVerb::Show { name }) => volumes::show(admin, name).await,
        Command::Volume(VolumeVerb::Delete { name }) => volumes::delete(admin, name).await,
        Command::Osd(OsdVerb::List) => lists::osds(admin).await,
        Command::Osd(OsdVerb::Show { osd }) => show_osd::show(admin, *osd).await,
        Command::Osd(OsdVerb::Drain { osd, no_wait }) => drain::drain(admin, *osd, !no_wait).await,
        Command::Osd(OsdVerb::Undrain { osd }) => drain::undrain(admin, *osd).await,
        Command::Osd(OsdVerb::Remove { osd }) => drain::remove(admin, found, *osd).await,
        Command::Mrc(verb) => mrc(verb, admin, found).await,
        Command::Pg(PgVerb::List { volume }) => lists::pgs(admin, volume.as_deref()).await,
        Command::Pg(PgVerb::Show { volume, pg }) => lists::pg(admin, volume, *pg).await,
        Command::Job(verb) => job(verb, admin).await,
        Command::Lease(LeaseVerb::List { limit }) => leases::list(admin, *limit).await,
        Command::Lease(LeaseVerb::Show { object }) => leases::show(admin, object).await,
        Command::Lease(LeaseVerb::HandOver { object, to }) => {
            hand_over::run(admin, object, *to).await
        }
        Command::Lease(LeaseVerb::Stats) => leases::stats(admin).await,
        Command::Scrub(ScrubVerb::Start { osd }) => scrub::start(admin, *osd).await,
        Command::Scrub(ScrubVerb::Status { osd }) => scrub::status(admin, *osd).await,
        Command::Session(SessionVerb::List) => lists::sessions(admin).await,
        Command::Config(ConfigVerb::Check { file }) => check::run(file),
    }
}

async fn mrc(verb: &MrcVerb, admin: &Admin, found: &Found) -> Result<Done, Failure> {
    match verb {
        MrcVerb::List => lists::mrcs(admin, found).await,
        MrcVerb::Add { servers, patience } => {
            members::change(admin, found, (servers, &[]), patience.time()).await
        }
        MrcVerb::Remove { servers, patience } => {
            members::change(admin, found, (&[], servers), patience.time()).await
        }
        MrcVerb::Replace { old, new, patience } => {
            let wish = (std::slice::from_ref(new), std::slice::from_ref(old));
            members::change(admin, found, wish, patience.time()).await
        }
    }
}

async fn job(verb: &JobVerb, admin: &Admin) -> Result<Done, Failure> {
    let set = |paused, limit_bytes_per_s| JobSet {
        paused,
        limit_bytes_per_s,
    };
    match verb {
        JobVerb::List => jobs::list(admin).await,
        JobVerb::Show => jobs::show(admin).await,
        JobVerb::Pause => jobs::set(admin, set(Some(true), None)).await,
        JobVerb::Resume => jobs::set(admin, set(Some(false), None)).await,
        JobVerb::Limit { bytes_per_s } => jobs::set(admin, set(None, Some(*bytes_per_s))).await,
    }
}
