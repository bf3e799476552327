# coverage.sh's judgement: reads hooks.def, excused.def, the export matrix, the table of entry points,
# then (driver=1) the names that a driver library exports.
function say(good, what) {
    if (good) passed++
    else { failed++; print "not ok " what }
}
# Does the entry point take memory, launch, copy, or end what did? By the table's category, and by name in
# those categories that are mixed. Left alone as a whole: events, queries, resolvers.
function matters(name, category) {
    if (category ~ /^(alloc|free|launch|copy|ipc|module|multicast)$/) return 1
    if (category == "interop") return name ~ /Create|Import|Map|Register|Connect|Acquire|Produce/
    if (category == "context" || category == "green")
        return name ~ /Create|Retain|Release|Reset|Destroy|Detach|Attach|SetLimit|Checkpoint|FromGreen/
    if (category == "stream") return name ~ /^cuStreamCreate|Destroy|AttachMem/
    if (category == "graph") return name ~ /Add.*Node|Instantiate|ExecDestroy|ExecUpdate|ExecNodeSet|ExecKernelNodeSet|ExecChild|Subgrid/
    return 0
}
function looks_like_one(name) {
    return name ~ /Alloc|^cu.*Create|Launch|Import|IpcOpen|MemMap|Bind|LoadData|LoadFrom|ModuleLoad|Instantiate|SetLimit/
}
# An event, a stream's capture or a graph is no memory of the device.
function is_harmless(name) { return name ~ /cu(dbg|Profiler|Log|Coredump|Event|Tex|Surf|Link|Tensor|UserObject|Graph(Create|Conditional)|DevRes)/ }

FILENAME ~ /hooks\.def$/ {
    if (match($0, /^HOOK\([^)]*\)/)) {
        split(substr($0, 6, RLENGTH - 6), field, /, */)
        say(!(field[1] in hooked), "hooks.def has " field[1] " twice")
        hooked[field[1]] = 1; base[field[1]] = field[2]; version[field[1]] = field[3]; flavour[field[1]] = field[4]; need[field[1]] = field[5]
    } else if (match($0, /^NVML_HOOK\([^)]*\)/)) {
        split(substr($0, 11, RLENGTH - 11), field, /, */)
        hooked[field[1]] = 1
    }
    next
}
FILENAME ~ /excused\.def$/ {
    if (!match($0, /^EXCUSED\([^)]*\)/)) next
    split(substr($0, 9, RLENGTH - 9), field, /, */)
    say(field[2] != "", "excused.def: no reason for " field[1])
    say(!(field[1] in excused), "excused.def has " field[1] " twice")
    say(!(field[1] in hooked), field[1] " is hooked and excused")
    excused[field[1]] = 1; order[++excuses] = field[1]
    next
}
FILENAME ~ /export-matrix/ {
    if (FNR == 1) next
    known[$1] = 1
    plain_from[$1] = $3; thread_from[$1] = $4; first_driver[$1] = $5; matrix_base[$1] = $2
    next
}
FILENAME ~ /cuda-entry-points/ {
    if (FNR == 1) next
    known[$1] = 1; category[$1] = $5
    next
}
FILENAME ~ /nvml-entry-points/ {
    if (FNR > 1) known[$1] = 1
    next
}
{ exported[$1] = 1 }

END {
    for (name in category)
        if (matters(name, category[name])) say(name in hooked || name in excused, name " (" category[name] ") is neither hooked nor excused")
    # Names that the table of entry points does not have must not look like one that matters.
    for (name in known)
        if (name ~ /^cu/ && !(name in category) && looks_like_one(name) && !is_harmless(name))
            say(name in hooked || name in excused, name " is not in the table, and neither hooked nor excused")
    for (i = 1; i <= excuses; i++) say(order[i] in known, "excused.def: no driver has " order[i])
    for (name in hooked) {
        if (name !~ /^cu/) { say(name in known, "hooks.def: NVML has no " name); continue }
        say(name in known, "hooks.def: no driver has " name)
        if (!(name in matrix_base)) continue
        want = flavour[name] == "plain" ? plain_from[name] : thread_from[name]
        say(matrix_base[name] == base[name], name ": base is " matrix_base[name])
        say(want == version[name], name ": resolved from version " want)
        say((first_driver[name] == "1") == (need[name] == "required"), name ": " (first_driver[name] == "1" ? "required" : "optional"))
    }
    if (driver) {
        for (name in exported) {
            count++
            if (name ~ /^nvml/ && name !~ /Memory|Process|Accounting|Attributes/) continue
            say(name in known || name in hooked || name in excused, name ": the driver exports it and nobody has classed it")
        }
        say(count > 0, "the library exports no cu* or nvml* name")
    }
    if (!failed) print "ok coverage: " passed " checks"
    exit failed > 0
}
