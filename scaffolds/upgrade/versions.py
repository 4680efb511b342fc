"""Which version of the template a project has and wants, and what the changelog says to its owner."""
import configparser
import re
from pathlib import Path

from scaffolds.upgrade.repository import Git
from utils.errors import ConfigError

_SECTION = re.compile(r"(?ms)^\[template\]\n.*?(?=^\[|\Z)")


def stamp_of(text: str | None) -> dict[str, str]:
    """The section [template] of a setup.cfg; {} if it has none."""
    config = configparser.ConfigParser()
    try:
        config.read_string(text or "")
    except configparser.Error as error:
        raise ConfigError(f"setup.cfg cannot be read: {error}") from error
    return dict(config["template"]) if config.has_section("template") else {}


def restamped(text: str, own: str, **values: str) -> str:
    """A template's setup.cfg with the section [template] of a project's, in which `values` are set."""
    section = _SECTION.search(own.replace("\r\n", "\n"))[0].rstrip("\n")
    for key, value in values.items():
        line = f"{key} = {value}"
        section, found = re.subn(rf"(?m)^{key} *=.*$", lambda _: line, section)
        section += "" if found else f"\n{line}"
    return _SECTION.sub(lambda found: section + re.search(r"\n*\Z", found[0])[0], text)


def default_source(git: Git, stamp: dict[str, str], template: Path) -> str:
    """Where the template is without --from: that of this program, the stamp's, or a remote of a clone."""
    if template != git.folder:
        return str(template)
    remotes = git("remote").split()
    named = [name for name in ("template", "upstream") if name in remotes]
    named += ["origin"] if "origin" in remotes and "created" not in stamp else []
    if "source" not in stamp and not named:
        raise ConfigError("this project does not know where the template is. Name its folder or address: "
                          "--from.")
    return stamp.get("source") or git("remote", "get-url", named[0])


def public_address(address: str) -> str:
    """An address of a repository without a password; "" for a folder, which means nothing elsewhere."""
    address = re.sub(r"(?<=://)[^/]*@", "", address)
    return address if re.match(r"(https?|ssh|git)://|[\w.-]+@[\w.-]+:", address) else ""


def fetch(git: Git, source: str) -> dict[str, str]:
    """Fetches a repository's commits, without names for them here. Returns its names with their commits."""
    if Path(source).expanduser().is_dir():
        source = str(Path(source).expanduser().resolve())
    listed = git("ls-remote", "--", source)
    names = dict(reversed(line.split("\t")) for line in listed.splitlines())
    if "HEAD" not in names:
        raise ConfigError(f"--from: {source} has no commit that is checked out.")
    branches = [name for name in names if re.match(r"refs/(heads|tags)/.*(?<!\^\{\})$", name)]
    git("fetch", "--quiet", "--no-tags", "--no-write-fetch-head", "--", source, "HEAD", *branches)
    if not git.find(names["HEAD"]):
        raise ConfigError(f"--from: {source} is a shallow clone. In it: git fetch --unshallow")
    return names


def versions_of(git: Git, commit: str) -> dict[str, str]:
    """The versions in the table of CHANGELOG.md, with their commits, where the table has one."""
    rows = re.findall(r"(?m)^\| ([\d.]+) \| (\w+)", git.read(commit, "CHANGELOG.md") or "")
    rows = [(version, value) for version, value in rows if re.fullmatch("[0-9a-f]{7,40}", value)]
    found = {version: git.find(value) for version, value in rows}
    return {version: value for version, value in found.items() if value}


def wanted_commit(git: Git, names: dict[str, str], version: str | None) -> str:
    """The template's commit for `--to`, without it the newest. Raises ConfigError for an unknown version."""
    newest = names["HEAD"]
    versions = {stamp_of(git.read(newest, "setup.cfg")).get("version"): newest, **versions_of(git, newest)}
    tags = [name for name in (f"refs/tags/v{version}", f"refs/tags/{version}") if name in names]
    if version is None:
        return newest
    found = versions.get(version) or (git.find(names[tags[0]]) if tags else None)
    found = found or (git.find(version) if re.fullmatch("[0-9a-f]{7,40}", version) else None)
    if not found:
        known = ", ".join(filter(None, versions))
        raise ConfigError(f"--to: there is no version {version}. Versions: {known}.")
    return found


def stamped_commit(git: Git, stamp: dict[str, str], wanted: str, source: str) -> str:
    """The template's commit that a project has. Raises ConfigError if it cannot be found."""
    versions = versions_of(git, wanted)
    found = git.find(stamp["commit"]) if "commit" in stamp else None
    if not found and not (found := versions.get(stamp["version"])):
        of = f"commit {stamp['commit']}" if "commit" in stamp else f"version {stamp['version']}"
        raise ConfigError(f"this project was made of {of}, which is not known in {source}. Name the "
                          "repository of its template with --from, or write `commit = HASH` under [template] "
                          "in setup.cfg.")
    return found


def your_side(git: Git, old: str, new: str) -> list[str]:
    """What the changelog of `new` says to owners of projects, and that of `old` does not."""
    known = set(your_side_of(git.read(old, "CHANGELOG.md") or ""))
    items = [item for item in your_side_of(git.read(new, "CHANGELOG.md") or "") if item not in known]
    followed = zip(items, [*items[1:], "#"])  # without headings whose text is known whole
    return [item for item, after in followed if not (item.startswith("#") and after.startswith("#"))]


def your_side_of(changelog: str) -> list[str]:
    """The headings and points under "Your side" of all versions in a changelog."""
    sides = re.findall(r"(?ms)^### Your side\n(.*?)(?=^##?#? |\Z)", changelog)
    items = [item.strip() for side in sides for item in re.split(r"(?m)^(?=- |#)", side)]
    return [item for item in items if item]
