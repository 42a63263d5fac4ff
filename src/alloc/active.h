/* Bytes of the file that decoding one token reads. A decoder that waits for memory makes at most
 * bandwidth / (bytes per token) tokens a second, so this is what its speed depends on. */
#ifndef OM_ALLOC_ACTIVE_H
#define OM_ALLOC_ACTIVE_H

#include "profile/profile.h"

/** What the shares of all tensors depend on. Borrowed: the profile. */
typedef struct om_active {
    const om_profile *profile;
    bool has_output; /* there is an output matrix: the token embedding is only looked up */
} om_active;

/** Cost: one look at every tensor's role. */
om_active om_active_of(const om_profile *profile);

/** The share of tensor i_unit that one token reads, in (0, 1] (docs/method.md eq. 10b): 1 for a
 * matrix; K/E for a stack of E experts of which K are used, measured as (tokens routed to its
 * experts) / (E * tokens of the profile), without such counts from the model's own numbers of
 * experts, without those 1; one row for an embedding that is only looked up. */
double om_active_share(const om_active *active, int i_unit);

/** share * bytes, rounded up to whole bytes; 0 for 0. bytes: of the tensor in some type, without
 * padding, which is never read. */
int64_t om_active_bytes(const om_active *active, int i_unit, int64_t bytes);

/** What no choice changes: the tensors that are copied (norms, routers) count whole, the metadata
 * is not read. */
int64_t om_active_fixed_bytes(const om_profile *profile);

#endif
