/* Sets of SMs. */
#include "sim.h"

struct sim_sms sim_sms_range(unsigned int first, unsigned int count) {
    struct sim_sms sms = {0};
    for (unsigned int i = first; i < first + count && i < 64 * SIM_SM_WORDS; i++)
        sms.word[i / 64] |= UINT64_C(1) << i % 64;
    return sms;
}

struct sim_sms sim_sms_join(struct sim_sms a, struct sim_sms b) {
    for (int i = 0; i < SIM_SM_WORDS; i++) a.word[i] |= b.word[i];
    return a;
}

unsigned int sim_sms_count(struct sim_sms sms) {
    unsigned int count = 0;
    for (int i = 0; i < SIM_SM_WORDS; i++) count += (unsigned int)__builtin_popcountll(sms.word[i]);
    return count;
}

bool sim_sms_meet(struct sim_sms a, struct sim_sms b) {
    for (int i = 0; i < SIM_SM_WORDS; i++)
        if (a.word[i] & b.word[i]) return true;
    return false;
}
