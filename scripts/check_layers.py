#!/usr/bin/env python3
"""Checks the rules of CONTRIBUTING.md that no compiler checks. Prints FILE:LINE: message; exit 1 when there is any.

  layers      src/FOLDER includes only the folders that cmake/layers.cmake names for it; cli only optimum.h, base, cli
  libraries   a third-party header only in the files listed in THIRD_PARTY below; in a header of ours only inside calib
  ownership   no malloc, free, fopen, printf … outside base/ and cli/; no exit or abort below cli/
  size        a file has at most 800 lines, a function at most 100
  docs        every function declared in a header stands under a comment (one comment may serve a run of them)
  tidiness    no tabs or trailing blanks, a final newline, no paths of somebody's machine
"""
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MAX_FILE_LINES, MAX_FUNCTION_LINES = 800, 100

# header prefix or name -> where it may be included (file, or folder ending in "/")
GGML_USERS = ["model/", "hf/", "calib/", "profile/roundtrip.c", "profile/measured.c", "artifact/", "eval/"]
THIRD_PARTY = {
    r"jansson\.h": ["base/json.c"],
    r"openssl/.*": ["base/file.c"],
    r"(highs/)?interfaces/highs_c_api\.h": ["alloc/solve.c"],
    r"(ggml.*|gguf|llama.*)\.h": GGML_USERS,
}
# C11 and POSIX: the only other headers there are.
SYSTEM = set(
    """assert complex ctype errno fenv float inttypes iso646 limits locale math setjmp signal stdalign stdarg stdatomic
    stdbool stddef stdint stdio stdlib stdnoreturn string threads time
    dirent fcntl ftw poll pthread regex spawn strings sys/mman sys/resource sys/stat sys/statvfs sys/time sys/types sys/wait
    termios unistd sys/ioctl""".split()
)
SYSTEM_ELSEWHERE = {"mach/mach": ["base/", "eval/"], "sys/sysctl": ["base/", "model/"], "malloc/malloc": ["base/"]}

BANNED_OUTSIDE_BASE_CLI = re.compile(
    r"(?<![\w.>])(malloc|calloc|realloc|free|aligned_alloc|posix_memalign|strdup|strndup|fopen|fdopen|freopen|tmpfile"
    r"|printf|fprintf|vprintf|vfprintf|puts|fputs|putchar|perror|exit|_exit|abort|quick_exit)\s*\("
)
BANNED_EVERYWHERE = re.compile(
    r"(?<![\w.>])(gets|strcpy|strcat|sprintf|vsprintf|strtok|atoi|atol|atoll|atof|gmtime|localtime|mktemp|tmpnam"
    r"|alloca)\s*\("
)
EXIT_OUTSIDE_CLI = re.compile(r"(?<![\w.>])(exit|_exit|abort|quick_exit)\s*\(")

problems = []


def report(path, line, message):
    problems.append(f"{path.relative_to(ROOT)}:{line}: {message}")


def read_layers():
    text = (ROOT / "cmake/layers.cmake").read_text()
    layers = {}
    for name, uses in re.findall(r"^om_layer\((\w+)\s+USES\s*(.*?)\s*LIBS", text, re.M | re.S):
        layers[name] = set(uses.split()) | {name}
    if "base" not in layers:
        sys.exit("check_layers: no om_layer(base …) in cmake/layers.cmake")
    layers["cli"] = {"base", "cli"}
    return layers


def strip_code(text):
    """The text with comments and the contents of string and character literals blanked, line breaks kept."""

    def blank(match):
        token = match.group(0)
        if token.startswith("/"):
            return re.sub(r"[^\n]", " ", token)
        return token[0] + re.sub(r"[^\n]", " ", token[1:-1]) + token[-1]

    return re.sub(r'/\*.*?\*/|//[^\n]*|"(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\'', blank, text, flags=re.S)


def allowed(where, places):
    return any(where == p or (p.endswith("/") and where.startswith(p)) for p in places)


def check_include(path, where, folder, line, quote, name, layers):
    for pattern, places in THIRD_PARTY.items():
        if re.fullmatch(pattern, name):
            if not allowed(where, places):
                report(path, line, f"{name} may be included only in {', '.join(places)}")
            elif path.suffix == ".h" and folder != "calib":
                report(path, line, f"{name} in a header: third-party types stay inside the .c file")
            return
    stem = name[:-2] if name.endswith(".h") else name
    if quote == "<":
        if stem not in SYSTEM and not allowed(where, SYSTEM_ELSEWHERE.get(stem, [])):
            report(path, line, f"<{name}> is neither C11 nor POSIX; a library needs a line in THIRD_PARTY")
    elif name != "optimum.h":
        target = name.split("/")[0] if "/" in name else None
        if target is None:
            report(path, line, f'"{name}": write the folder too, "{folder}/{name}"')
        elif target not in layers:
            report(path, line, f'"{name}": no such folder in cmake/layers.cmake')
        elif target not in layers[folder]:
            report(path, line, f'{folder} may not include {target} (cmake/layers.cmake)')
        elif not (ROOT / "src" / name).exists():
            report(path, line, f'"{name}" does not exist')


def check_functions(path, code):
    """A function of ours starts at a line in column 0 that ends in "{" after a ")" and ends at "}" in column 0."""
    start = None
    for number, line in enumerate(code.split("\n"), 1):
        if start is None and re.match(r"^(?!typedef|enum|struct [^(]*$|union [^(]*$)[\w\s*].*\)\s*\{\s*$", line):
            start = number
        elif line.startswith("}"):
            if start is not None and number - start + 1 > MAX_FUNCTION_LINES:
                report(path, start, f"function of {number - start + 1} lines (at most {MAX_FUNCTION_LINES})")
            start = None


def check_docs(path, text, code):
    """Each declaration must have a comment above or behind it, or share one with the declarations above.

    A comment reaches to the first blank line after a declaration. Functions that only give back need none.
    """
    lines, code_lines = text.split("\n"), code.split("\n")
    covered, declared, number, depth = False, False, 0, 0
    while number < len(lines):
        raw, line = lines[number], code_lines[number]
        if depth == 0 and not line.strip():
            if raw.strip():
                covered, declared = True, False
            elif declared:
                covered = False
        elif depth == 0 and re.match(r"^(static inline )?[a-z][\w ]*[ *]om_\w+\(", line):
            last = number
            while ";" not in code_lines[last] and "{" not in code_lines[last] and last + 1 < len(lines):
                last += 1
            inside = "\n".join(lines[number : last + 1])
            declared = True
            obvious = re.search(r"om_\w+_(free|release|close)\(", line)
            if not covered and not obvious and "/*" not in inside:
                report(path, number + 1, "a function without a comment at its declaration")
            depth += sum(l.count("{") - l.count("}") for l in code_lines[number : last + 1])
            number = last + 1
            continue
        elif line.strip() and not line.startswith("#"):
            declared = True
        depth = max(depth + line.count("{") - line.count("}") - line.startswith('extern "C" {'), 0)
        number += 1


def check_source(path, layers):
    where = str(path.relative_to(ROOT / "src"))
    folder = where.split("/")[0]
    text = path.read_text()
    code = strip_code(text)
    if folder not in layers:
        report(path, 1, f"src/{folder} is not in cmake/layers.cmake")
        return
    for number, line in enumerate(text.split("\n"), 1):
        match = re.match(r'\s*#\s*include\s*([<"])([^>"]+)', line)
        if match:
            check_include(path, where, folder, number, match.group(1), match.group(2), layers)
    for number, line in enumerate(code.split("\n"), 1):
        if re.match(r"\s*#", line):
            continue
        rules = [(BANNED_EVERYWHERE, "banned: use snprintf, memcpy with a checked size, strtol, strtod, gmtime_r")]
        if folder not in ("base", "cli"):
            rules.append((BANNED_OUTSIDE_BASE_CLI, "only in base/ and cli/: use base/mem.h, file.h, buf.h, log.h"))
        elif folder == "base":
            rules.append((EXIT_OUTSIDE_CLI, "only in cli/: return an error"))
        for rule, why in rules:
            match = rule.search(line)
            if match:
                report(path, number, f"{match.group(1)}: {why}")
    check_functions(path, code)
    if path.suffix == ".h":
        check_docs(path, text, code)


# Written in pieces, so that this file does not find itself.
MACHINE_PATH = re.compile("(?<![\\w./~-])/(?:ho" + "me|Us" + "ers|ro" + "ot|wo" + "rk|m" + "nt)/\\w")


def check_tidy(path):
    try:
        text = path.read_text()
    except UnicodeDecodeError:
        return
    is_text = path.suffix in {".c", ".h", ".cpp", ".py", ".sh", ".cmake", ".md", ".json", ".yml", ".txt", ".html", ""}
    if not is_text or not text:
        return
    if not text.endswith("\n"):
        report(path, text.count("\n") + 1, "no newline at the end of the file")
    for number, line in enumerate(text.split("\n"), 1):
        if line != line.rstrip():
            report(path, number, "trailing blank")
        if "\t" in line and path.name != "Makefile":
            report(path, number, "tab")
        if MACHINE_PATH.search(line):
            report(path, number, "a path of somebody's machine")
    if path.suffix in {".c", ".h", ".cpp"} and text.count("\n") > MAX_FILE_LINES:
        report(path, text.count("\n"), f"more than {MAX_FILE_LINES} lines")


def project_files():
    """What git tracks or would track; without git, everything outside build folders."""
    try:
        listing = subprocess.run(
            ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            capture_output=True, check=True, text=True,
        ).stdout
        return sorted(ROOT / name for name in listing.split("\0") if name and (ROOT / name).is_file())
    except (OSError, subprocess.CalledProcessError):
        return sorted(
            p for p in ROOT.rglob("*")
            if p.is_file() and not re.match(r"build|\.git/", str(p.relative_to(ROOT)))
        )


def main():
    layers = read_layers()
    files = project_files()
    sources = [p for p in files if p.suffix in {".c", ".h", ".cpp"} and (ROOT / "src") in p.parents]
    for path in sources:
        check_source(path, layers)
    check_docs(ROOT / "include/optimum.h", *(lambda t: (t, strip_code(t)))((ROOT / "include/optimum.h").read_text()))
    for path in files:
        if "tests" in path.parts and path.suffix in {".c", ".h"}:
            check_functions(path, strip_code(path.read_text()))
        if "corpus" not in path.parts and "golden" not in path.parts:
            check_tidy(path)
    if problems:
        print("\n".join(problems))
        print(f"check_layers: {len(problems)} problems")
        return 1
    print(f"check_layers: {len(sources)} sources, {len(files)} files, no problem")
    return 0


if __name__ == "__main__":
    sys.exit(main())
