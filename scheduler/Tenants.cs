#pragma warning disable RS0030 // looking up takes no lock; a tenant that is new or forgotten takes one of several
using System.Collections.Concurrent;
using System.Diagnostics;

namespace Native.Scheduling;

/// <summary>What a tenant got and what waits.</summary>
/// <param name="Name">What it is called.</param>
/// <param name="Tokens">Prompt tokens computed, and tokens generated.</param>
/// <param name="Queued">Requests waiting for their first step.</param>
/// <param name="RefusedBy">Requests refused since the start, by outcome.</param>
public readonly record struct TenantState(
    string Name, long Tokens, long Queued, Func<SubmitOutcome, long> RefusedBy);

/// <summary>All tenants: those the options name, and those that came.</summary>
/// <remarks>Names may come from a header, so one that nobody configured is forgotten a minute after its last request,
/// and what it got with it; beyond <see cref="MostUnnamed"/> new ones share one share.</remarks>
internal sealed class Tenants
{
    /// <summary>Tenants known at a time that the options do not name.</summary>
    public const int MostUnnamed = 10_000;

    private const int Remembered = 60; // seconds

    private readonly ConcurrentDictionary<string, Tenant> _byName = new(StringComparer.Ordinal);
    private readonly Tenant _rest = new(new TenantSpec { Name = "" }, isNamed: true);
    private readonly Tenant[] _named;
    private int _unnamed;
    private PaddedLong _queuedPrompts; // tokens of queued prompts, cached or not

    // The engine thread's.
    private readonly Queue<(Tenant Tenant, long Since)> _idle = new();
    private readonly Share?[][] _active = new Share?[Classes][];
    private readonly int[] _activeCounts = new int[Classes];
    private readonly long[] _activeWeights = new long[Classes]; // in millionths

    private static readonly int Classes = Enum.GetValues<RequestClass>().Length;

    public Tenants(EngineOptions options)
    {
        _named = [.. options.Tenants.Select(spec => new Tenant(spec, isNamed: true))];
        foreach (Tenant tenant in _named) _byName[tenant.Name] = tenant;
        _byName.TryAdd(_rest.Name, _rest);
        for (int i = 0; i < Classes; i++) _active[i] = new Share?[16];
    }

    /// <summary>What the tenants have that the options name. Any thread.</summary>
    public TenantState[] Read() =>
    [
        .. _named.Select(tenant => new TenantState(
            tenant.Name, tenant.Shares.Sum(share => share.Tokens), tenant.Shares.Sum(share => share.QueuedRequests),
            tenant.RefusedBy)),
    ];

    /// <summary>Tenants known.</summary>
    public int Count => _byName.Count;

    /// <summary>The tenant of that name; a new one is not known before it is kept. Any thread.</summary>
    public Tenant Of(string name)
    {
        if (_byName.TryGetValue(name, out Tenant? known)) return known;
        if (Volatile.Read(ref _unnamed) >= MostUnnamed) return _rest;
        return new Tenant(new TenantSpec { Name = name }, isNamed: false);
    }

    /// <summary>A request of a tenant was queued: the next one finds it. Who is refused leaves nothing here. Any
    /// thread.</summary>
    /// <remarks>Of two first requests at the same instant one is alone with its tenant, which is forgotten with
    /// it.</remarks>
    public void Keep(Tenant tenant)
    {
        if (tenant.IsNamed || _byName.ContainsKey(tenant.Name)) return;
        if (_byName.TryAdd(tenant.Name, tenant)) Interlocked.Increment(ref _unnamed);
    }

    /// <summary>Requests of a tenant were refused; of one that nobody knows, nobody counts them. Any thread.</summary>
    public void CountRefused(string name, SubmitOutcome outcome, int count)
    {
        if (_byName.TryGetValue(name, out Tenant? tenant)) tenant.CountRefused(outcome, count);
    }

    /// <summary>Tokens of the prompts that are queued, of all. Any thread.</summary>
    public long QueuedTokens => Volatile.Read(ref _queuedPrompts.Value);

    /// <summary>A request is queued, unless the queued prompts are too long with it. One that comes to an empty queue
    /// is queued whatever its length: it would never be otherwise. Any thread.</summary>
    /// <param name="share">By whose account.</param>
    /// <param name="prompt">Its prompt.</param>
    /// <param name="most">Tokens that may be queued; null for any number.</param>
    public bool TryQueue(Share share, QueuedPrompt prompt, long? most)
    {
        long queued = Interlocked.Add(ref _queuedPrompts.Value, prompt.Length);
        if (queued > most && queued > prompt.Length)
        {
            Interlocked.Add(ref _queuedPrompts.Value, -prompt.Length);
            return false;
        }
        share.Queue(prompt);
        return true;
    }

    /// <summary>A queued request has begun or ended. Any thread.</summary>
    public void Dequeue(Share share, QueuedPrompt prompt)
    {
        Interlocked.Add(ref _queuedPrompts.Value, -prompt.Length);
        share.Dequeue(prompt);
    }

    /// <summary>Those that have requests in the engine; an entry may be null, or missing for an instant. Any
    /// thread.</summary>
    public ReadOnlySpan<Share?> Active(RequestClass of)
    {
        Share?[] list = Volatile.Read(ref _active[(int)of]);
        return list.AsSpan(0, Math.Min(Volatile.Read(ref _activeCounts[(int)of]), list.Length));
    }

    /// <summary>The weights of those that have requests in the engine, together. The engine thread's.</summary>
    public double WeightOf(RequestClass of) => _activeWeights[(int)of] / 1e6;

    /// <summary>The engine has one more request of a share. The engine thread's.</summary>
    public void Begin(Share share)
    {
        if (share.Live++ > 0) return;
        int of = (int)share.Class, count = _activeCounts[of];
        _activeWeights[of] += Millionths(share.Weight);
        if (count == _active[of].Length)
        {
            Share?[] larger = new Share?[2 * count];
            _active[of].CopyTo(larger, 0);
            Volatile.Write(ref _active[of], larger);
        }
        share.Place = count;
        _active[of][count] = share;
        Volatile.Write(ref _activeCounts[of], count + 1);
    }

    /// <summary>One of its requests is over. The engine thread's.</summary>
    public void End(Share share, long now)
    {
        if (--share.Live == 0) Retire(share, now);
        while (_idle.TryPeek(out (Tenant Tenant, long Since) idle))
        {
            bool isBack = idle.Tenant.IsLive;
            if (!isBack && now - idle.Since <= Remembered * Stopwatch.Frequency) return;
            _idle.Dequeue();
            if (!isBack && idle.Tenant.LastEnd > idle.Since) // it was here meanwhile
            {
                _idle.Enqueue((idle.Tenant, idle.Tenant.LastEnd));
                continue;
            }
            idle.Tenant.IsListed = false;
            if (!isBack && _byName.TryRemove(KeyValuePair.Create(idle.Tenant.Name, idle.Tenant)))
                Interlocked.Decrement(ref _unnamed);
        }
    }

    private static long Millionths(double weight) => (long)Math.Round(1e6 * weight);

    private void Retire(Share share, long now)
    {
        int of = (int)share.Class, last = _activeCounts[of] - 1;
        _activeWeights[of] -= Millionths(share.Weight);
        Share moved = _active[of][last]!;
        _active[of][share.Place] = moved;
        moved.Place = share.Place;
        _active[of][last] = null;
        Volatile.Write(ref _activeCounts[of], last);
        share.Place = -1;
        Tenant tenant = share.Tenant;
        tenant.LastEnd = now;
        if (tenant.IsNamed || tenant.IsListed) return;
        tenant.IsListed = true;
        _idle.Enqueue((tenant, now));
    }
}
