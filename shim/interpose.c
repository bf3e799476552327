/* What the trampolines ask: is this call of dlsym, dlvsym, dlopen or dlmopen ours to answer or to
 * alter? Nearly always it is not, and the real function runs as if we were not there. */
#define _GNU_SOURCE
#include "interpose.h"

#include <dlfcn.h>
#include <errno.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include "capture.h"
#include "driver.h"
#include "elf.h"
#include "hook_names.h"

/* Known to trampoline_*.S, field by field. */
struct vgpu_route {
    void *argument[3];  /* as passed; the real function gets what is here afterwards */
    const void *caller; /* the return address */
    void *answer;       /* the result if no real function is to run */
};
_Static_assert(offsetof(struct vgpu_route, caller) == 24, "as in trampoline_*.S");
_Static_assert(offsetof(struct vgpu_route, answer) == 32, "as in trampoline_*.S");

void *vgpu_route_dlsym(struct vgpu_route *route);
void *vgpu_route_dlvsym(struct vgpu_route *route);
void *vgpu_route_dlopen(struct vgpu_route *route);
void *vgpu_route_dlmopen(struct vgpu_route *route);

/* Lets the real function run. */
VGPU_UNINSTRUMENTED static void *pass(struct vgpu_route *route, enum vgpu_libc_function function) {
    route->answer = NULL; /* counts only if libc has no such function */
    return vgpu_libc(function);
}

/* --- dlsym and dlvsym ----------------------------------------------------------------------- */

/* One question to libc, repeatable with another handle. */
struct question {
    void *handle;
    const char *symbol;
    const char *version; /* NULL: dlsym */
    const void *caller;
};

static void *ask(const struct question *question, void *handle) {
    if (question->version) {
        void *(*dlvsym_)(void *, const char *, const char *);
        dlvsym_ = (typeof(dlvsym_))vgpu_libc(VGPU_LIBC_DLVSYM);
        return dlvsym_ == NULL ? NULL : dlvsym_(handle, question->symbol, question->version);
    }
    void *(*dlsym_)(void *, const char *) = (typeof(dlsym_))vgpu_libc(VGPU_LIBC_DLSYM);
    return dlsym_ == NULL ? NULL : dlsym_(handle, question->symbol);
}

static void *answer_hook(const struct question *question, enum vgpu_hook hook) {
    void *found = ask(question, question->handle);
    if (!found) return NULL;
    if (vgpu_elf_is_own(found)) {
        /* RTLD_DEFAULT, dlopen(NULL): ours stands for the driver's, if there is one that has it.
         * Else the answer is whatever stands behind us; libc has then set dlerror. */
        if (vgpu_driver_pointer(hook)) return found;
        return ask(question, RTLD_NEXT);
    }
    if (!vgpu_driver_contains(found) || vgpu_driver_exempts(question->caller, question->symbol))
        return found;
    void *own = vgpu_elf_own(question->symbol);
    return own ? own : found;
}

static void *answer_loader_function(const struct question *question,
                                    enum vgpu_libc_function function) {
    void *found = ask(question, question->handle);
    if (!found || found != vgpu_libc(function)) return found;
    void *own = vgpu_elf_own(question->symbol);
    return own ? own : found;
}

static void *answer_unknown(const struct question *question) {
    void *found = ask(question, question->handle);
    if (found && vgpu_driver_contains(found)) vgpu_resolve_unknown(question->symbol);
    return found;
}

VGPU_UNINSTRUMENTED static enum vgpu_libc_function find_loader_function(const char *symbol) {
    if (vgpu_elf_same(symbol, "dlsym")) return VGPU_LIBC_DLSYM;
    if (vgpu_elf_same(symbol, "dlvsym")) return VGPU_LIBC_DLVSYM;
    if (vgpu_elf_same(symbol, "dlopen")) return VGPU_LIBC_DLOPEN;
    if (vgpu_elf_same(symbol, "dlmopen")) return VGPU_LIBC_DLMOPEN;
    return VGPU_LIBC_FUNCTIONS;
}

/* Returns whether the answer is in *answer. */
VGPU_UNINSTRUMENTED static bool is_answered(const struct question *question, void **answer) {
    const char *symbol = question->symbol;
    if (question->handle == RTLD_NEXT || !symbol) return false;
    if (symbol[0] == 'd' && symbol[1] == 'l') {
        enum vgpu_libc_function function = find_loader_function(symbol);
        if (function == VGPU_LIBC_FUNCTIONS) return false;
        *answer = answer_loader_function(question, function);
        return true;
    }
    bool cuda = symbol[0] == 'c' && symbol[1] == 'u';
    if (!cuda && !(symbol[0] == 'n' && symbol[1] == 'v')) return false;
    enum vgpu_hook hook = vgpu_hook_find(symbol);
    if (hook != VGPU_HOOK_COUNT) {
        *answer = answer_hook(question, hook);
        return true;
    }
    if (cuda) vgpu_capture_note_unhooked(symbol);
    if (!vgpu_resolve_is_unknown(symbol)) return false;
    *answer = answer_unknown(question);
    return true;
}

VGPU_UNINSTRUMENTED void *vgpu_route_dlsym(struct vgpu_route *route) {
    struct question question = {route->argument[0], route->argument[1], NULL, route->caller};
    return is_answered(&question, &route->answer) ? NULL : pass(route, VGPU_LIBC_DLSYM);
}

VGPU_UNINSTRUMENTED void *vgpu_route_dlvsym(struct vgpu_route *route) {
    struct question question = {route->argument[0], route->argument[1], route->argument[2],
                                route->caller};
    if (!question.version) return pass(route, VGPU_LIBC_DLVSYM);
    return is_answered(&question, &route->answer) ? NULL : pass(route, VGPU_LIBC_DLVSYM);
}

/* --- dlopen and dlmopen --------------------------------------------------------------------- */

/* Which driver a file name means by its last part, or VGPU_DRIVERS. */
VGPU_UNINSTRUMENTED static enum vgpu_driver find_driver_file(const char *name) {
    static const char *const stems[VGPU_DRIVERS] = {
        [VGPU_DRIVER_CUDA] = "libcuda.so",
        [VGPU_DRIVER_NVML] = "libnvidia-ml.so",
    };
    const char *part = name;
    for (const char *c = name; *c; c++)
        if (*c == '/') part = c + 1;
    for (unsigned i = 0; i < VGPU_DRIVERS; i++) {
        const char *stem = stems[i], *c = part;
        while (*stem && *stem == *c) stem++, c++;
        if (!*stem && (!*c || *c == '.')) return (enum vgpu_driver)i;
    }
    return VGPU_DRIVERS;
}

static bool is_readable(const char *path) {
    int saved = errno;
    bool readable = access(path, R_OK) == 0;
    errno = saved;
    return readable;
}

/* Sends another copy of a loaded driver to the loaded one: the hooks serve only one. A path that
 * does not exist must still fail. */
static void redirect(void **name, enum vgpu_driver driver) {
    struct vgpu_elf elf;
    if (!vgpu_driver_loaded(driver, &elf)) return;
    if (strchr(*name, '/') && !is_readable(*name)) return;
    *name = (void *)(uintptr_t)elf.path;
}

/* flags is an int: the upper half of its register means nothing. The driver may bind its own helper
 * libraries (compilers among them) as deeply as it likes. */
VGPU_UNINSTRUMENTED static void *without_deepbind(void *flags, const void *caller) {
    uintptr_t value = (uintptr_t)flags;
    if (!(value & RTLD_DEEPBIND) || vgpu_driver_contains(caller)) return flags;
    return (void *)(value & ~(uintptr_t)RTLD_DEEPBIND);
}

/* A wrapper named libcuda.so.1 must be able to open the driver that it wraps. */
VGPU_UNINSTRUMENTED static enum vgpu_driver driver_asked(const char *name, const void *caller) {
    enum vgpu_driver driver = name ? find_driver_file(name) : VGPU_DRIVERS;
    return driver != VGPU_DRIVERS && vgpu_driver_contains(caller) ? VGPU_DRIVERS : driver;
}

VGPU_UNINSTRUMENTED void *vgpu_route_dlopen(struct vgpu_route *route) {
    enum vgpu_driver driver = driver_asked(route->argument[0], route->caller);
    if (driver != VGPU_DRIVERS) redirect(&route->argument[0], driver);
    route->argument[1] = without_deepbind(route->argument[1], route->caller);
    return pass(route, VGPU_LIBC_DLOPEN);
}

VGPU_UNINSTRUMENTED void *vgpu_route_dlmopen(struct vgpu_route *route) {
    enum vgpu_driver driver = driver_asked(route->argument[1], route->caller);
    if (driver != VGPU_DRIVERS) {
        route->argument[0] = (void *)LM_ID_BASE;
        redirect(&route->argument[1], driver);
    }
    /* No preload is in another namespace, so there is nothing for RTLD_DEEPBIND to bypass. */
    if (route->argument[0] == (void *)LM_ID_BASE)
        route->argument[2] = without_deepbind(route->argument[2], route->caller);
    return pass(route, VGPU_LIBC_DLMOPEN);
}
