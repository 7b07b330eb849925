"""Settings as frozen values, the folders of this machine, and the keys: the only reader of `os.environ`.

    timings.py      every interval of a session, as one value
    settings.py     argument > `STARBURST_*` variable > config file > default
    aws.py          the same for the `[aws]` table: which stack, region and profile
    file.py         the config file
    container.py    what a launcher on AWS passes to a worker in its environment
    folders.py      where this machine keeps config, data and logs; the default store
    file_systems.py which file systems are refused for an embedded store
    user_keys.py    the user's key file and the keys of sessions made from it
    environment.py  the names of the variables that are set, and which GPUs a process may use

Nothing here accesses a store. Settings are read on demand: importing this package reads neither the disk nor the
environment. Import its names from this package, not from its modules.
"""

from starburst_executor.config.aws import AwsSettings, forget_aws, has_stack, remember_aws, resolve_aws
from starburst_executor.config.container import (
    ContainerStart,
    Rights,
    container_environment,
    container_start,
    drop_secrets,
    fallback_environment,
    inherited_environment,
    secret_names,
    size_environment,
    worker_rights,
    worker_size,
    worker_topic,
)
from starburst_executor.config.environment import endpoint_in_environment, pin_gpus, variable_names, visible_gpus
from starburst_executor.config.folders import (
    default_store,
    default_store_to_read,
    log_folder,
    log_folders,
    machine_boot,
    price_file,
    registry_folder,
)
from starburst_executor.config.settings import (
    LAUNCHERS,
    Settings,
    check_setting,
    explained,
    resolve,
    store_to_read,
    write_setting,
)
from starburst_executor.config.timings import Timings
from starburst_executor.config.user_keys import (
    SessionKey,
    UserKey,
    adopt_environment,
    ephemeral_session_key,
    find_session_key,
    forget_session_key,
    import_session_key,
    new_session_key,
    session_key,
    take_secret_environment,
    user_key,
    worker_environment,
)

__all__ = [
    "LAUNCHERS",
    "AwsSettings",
    "ContainerStart",
    "Rights",
    "SessionKey",
    "Settings",
    "Timings",
    "UserKey",
    "adopt_environment",
    "check_setting",
    "container_environment",
    "container_start",
    "default_store",
    "default_store_to_read",
    "drop_secrets",
    "endpoint_in_environment",
    "ephemeral_session_key",
    "explained",
    "fallback_environment",
    "find_session_key",
    "forget_aws",
    "forget_session_key",
    "has_stack",
    "import_session_key",
    "inherited_environment",
    "log_folder",
    "log_folders",
    "machine_boot",
    "new_session_key",
    "pin_gpus",
    "price_file",
    "registry_folder",
    "remember_aws",
    "resolve",
    "resolve_aws",
    "secret_names",
    "session_key",
    "size_environment",
    "store_to_read",
    "take_secret_environment",
    "user_key",
    "variable_names",
    "visible_gpus",
    "worker_environment",
    "worker_rights",
    "worker_size",
    "worker_topic",
    "write_setting",
]
