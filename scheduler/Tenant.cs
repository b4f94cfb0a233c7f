namespace Native.Scheduling;

/// <summary>Who sends requests, and what it may have.</summary>
public sealed record TenantSpec
{
    /// <summary>What it is called: in objectives, in metrics, and in <see cref="GenerationRequest.Tenant"/>.</summary>
    public required string Name { get; init; }

    /// <summary>Its part of the machine while others wait too: one with 2 gets twice what one with 1 gets. From
    /// <see cref="LeastWeight"/> to <see cref="MostWeight"/>, default 1.</summary>
    public double Weight { get; init; } = 1;

    /// <summary>Requests a minute, of which a minute's worth may come at once; null for any number.</summary>
    public int? RequestsPerMinute { get; init; }

    /// <summary>Tokens a minute, of prompts and generated, likewise.</summary>
    public int? TokensPerMinute { get; init; }

    /// <summary>Adds a sentence to <paramref name="errors"/> for every wrong value.</summary>
    public void Validate(ICollection<string> errors)
    {
        if (Name.Length is 0 or > MaxName)
            errors.Add($"A tenant's name has {Name.Length} characters, not 1 to {MaxName}.");
        if (Weight is not (>= LeastWeight and <= MostWeight))
            errors.Add($"Tenant '{Name}' has the weight {Weight}; it must be from {LeastWeight} to {MostWeight}.");
        if (RequestsPerMinute < 1)
            errors.Add($"Tenant '{Name}' may send {RequestsPerMinute} requests a minute; it must be 1 at least.");
        if (TokensPerMinute < 1)
            errors.Add($"Tenant '{Name}' may have {TokensPerMinute} tokens a minute; it must be 1 at least.");
    }

    /// <summary>Longest name, in characters.</summary>
    public const int MaxName = 200;

    /// <summary>Smallest <see cref="Weight"/>.</summary>
    public const double LeastWeight = 0.01;

    /// <summary>Largest <see cref="Weight"/>.</summary>
    public const double MostWeight = 100;
}

/// <summary>A tenant while its requests are served.</summary>
internal sealed class Tenant
{
    private readonly long[] _refused = new long[Enum.GetValues<SubmitOutcome>().Length];

    /// <param name="spec">What it may have.</param>
    /// <param name="isNamed">Whether the options name it: it is never forgotten.</param>
    public Tenant(TenantSpec spec, bool isNamed)
    {
        Name = spec.Name;
        IsNamed = isNamed;
        Requests = spec.RequestsPerMinute is { } requests ? new RateLimit(requests) : null;
        Tokens = spec.TokensPerMinute is { } tokens ? new RateLimit(tokens) : null;
        Shares = [.. Enum.GetValues<RequestClass>().Select(of => new Share(this, of, spec.Weight))];
    }

    public string Name { get; }

    public bool IsNamed { get; }

    /// <summary>Whether it is in the list of those that may be forgotten. The engine thread's.</summary>
    public bool IsListed { get; set; }

    /// <summary>Whether the engine has requests of it. The engine thread's.</summary>
    public bool IsLive
    {
        get
        {
            foreach (Share share in Shares)
                if (share.Live > 0) return true;
            return false;
        }
    }

    /// <summary>When it last had no more requests of a class. The engine thread's.</summary>
    public long LastEnd { get; set; }

    /// <summary>Requests that may come; null for any.</summary>
    public RateLimit? Requests { get; }

    /// <summary>Tokens that it may have; null for any.</summary>
    public RateLimit? Tokens { get; }

    /// <summary>Requests refused since the start. Any thread.</summary>
    public long RefusedBy(SubmitOutcome outcome) => Volatile.Read(ref _refused[(int)outcome]);

    /// <summary>Requests were refused. Any thread.</summary>
    public void CountRefused(SubmitOutcome outcome, int count) =>
        Interlocked.Add(ref _refused[(int)outcome], count);

    /// <summary>Gives back requests and their prompts' tokens that were taken and not had. Any thread.</summary>
    public void GiveBack(int requests, int tokens)
    {
        Requests?.Return(requests);
        Tokens?.Return(tokens);
    }

    /// <summary>Its share of each class.</summary>
    public Share[] Shares { get; }

    /// <summary>Its share of a class.</summary>
    public Share ShareOf(RequestClass of) => Shares[(int)of];
}
