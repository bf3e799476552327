/* Small libraries of the tests, chosen by a macro. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>

int who(void);

#if defined(PLUGIN) /* linked with the driver: calls it directly */
int cuMemAlloc_v2(void);
int plugin_call(void);
int plugin_call(void) { return cuMemAlloc_v2(); }

#elif defined(CONSTRUCTOR) /* waits in its constructor for a thread that calls the driver */
#include <pthread.h>
int cuMemFree_v2(void);
int constructed;
static void *call_driver(void *argument) {
    *(int *)argument = cuMemFree_v2();
    return argument;
}
__attribute__((constructor)) static void call_from_thread(void) {
    pthread_t thread;
    pthread_create(&thread, NULL, call_driver, &constructed);
    pthread_join(thread, NULL);
}

#elif defined(FOREIGN) /* has functions with the driver's names that are its own */
int cuInit(void);
int cuMemAlloc_v2(void);
int cuFooCreate(void);
int nvmlInit_v2(void);
int foreign_call(void);
int cuInit(void) { return 42; }
int cuMemAlloc_v2(void) { return 43; }
int cuFooCreate(void) { return 44; }
int nvmlInit_v2(void) { return 45; }
int foreign_call(void) { return cuInit(); }

#elif defined(NEIGHBOUR) /* opened by bare name from a library whose RUNPATH leads here */
int who(void) { return 7; }

#elif defined(LOCAL) /* its RUNPATH is $ORIGIN/deps */
void *open_neighbour(void);
void *find_local(const char *name);
void *find_next(const char *name);
void *open_neighbour(void) { return dlopen("libneighbour.so", RTLD_NOW | RTLD_LOCAL); }
void *find_local(const char *name) { return dlsym(RTLD_DEFAULT, name); }
void *find_next(const char *name) { return dlsym(RTLD_NEXT, name); }
int who(void) { return 1; }

#elif defined(SECOND) /* the next definition after LOCAL's */
int who(void) { return 2; }
int only_second(void);
int only_second(void) { return 22; }
#endif
