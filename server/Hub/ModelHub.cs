using System.Globalization;

namespace Native.Server.Hub;

/// <summary>A model from the hub, on this machine.</summary>
/// <param name="Path">The GGUF file or the folder, in the cache's snapshot of the commit.</param>
/// <param name="Name">The repository for a folder, the file's name without its ending for a GGUF file.</param>
/// <param name="Commit">What the revision stands for.</param>
public sealed record HubModel(string Path, string Name, string Commit);

/// <summary>Models of the Hugging Face hub: found in the cache, downloaded into it.</summary>
public sealed class ModelHub : IDisposable
{
    private readonly HubOptions _options;
    private readonly HubCache _cache;
    private readonly HubClient _client;

    public ModelHub(HubOptions options)
    {
        _options = options;
        _cache = new HubCache(options.Cache, options.Symlinks);
        _client = new HubClient(options);
    }

    /// <summary>A model from the cache, asking nobody; null where it is not there, or not whole.</summary>
    /// <exception cref="HubChoiceException">The cache has several models of the repository, and none is
    /// named.</exception>
    public HubModel? Find(HubReference reference)
    {
        if (_cache.Commit(reference.Repository, reference.Revision) is not { } commit) return null;
        string snapshot = _cache.Snapshot(reference.Repository, commit);
        ModelFiles[] whole =
            [.. (reference.File is { } file ? [ModelFiles.OfGguf(file)]
                : ModelFiles.Of(_cache.Files(reference.Repository, commit))).Where(model => model.IsWhole(snapshot))];
        if (whole.Length == 0) return null;
        return Model(reference, commit, Only(reference, whole, name => HubCache.Length(Path.Combine(snapshot, name))));
    }

    /// <summary>A model from the cache as it is there; downloaded where it is not.</summary>
    /// <exception cref="HubException">It can't be had.</exception>
    public async Task<HubModel> ResolveAsync(HubReference reference, IProgress<HubProgress>? progress,
        CancellationToken ct) =>
        Find(reference) ?? await PullAsync(reference, progress, ct);

    /// <summary>Downloads what the cache lacks of a model as the hub has it now. Offline, finds it in the
    /// cache.</summary>
    /// <exception cref="HubException">It can't be had.</exception>
    public async Task<HubModel> PullAsync(HubReference reference, IProgress<HubProgress>? progress,
        CancellationToken ct)
    {
        if (_options.Offline)
            return Find(reference)
                ?? throw new HubException(
                    $"{reference} is not in the cache {_cache.Root}, or not whole, and HF_HUB_OFFLINE is set");

        DownloadCount looking = new(0, progress) { File = reference.File ?? reference.Repository };
        Task<T> Ask<T>(Func<Task<T>> attempt) => _client.RetryAsync(attempt, looking.Note, ct);
        string repository = reference.Repository, revision = reference.Revision;
        ModelFiles model;
        if (reference.File is { } named)
        {
            model = ModelFiles.OfGguf(named);
        }
        else
        {
            HubListing listing = await Ask(() => _client.ListAsync(repository, revision, ct));
            IReadOnlyList<ModelFiles> models = ModelFiles.Of(listing.Files.Keys);
            if (models.Count == 0)
                throw new HubException(
                    $"{repository} has neither a GGUF file nor config.json with safetensors: it is no model that can "
                        + "be loaded");
            model = Only(reference, models, name => listing.Files.TryGetValue(name, out long? size) ? size : null);
            revision = listing.Commit;
        }
        List<HubFile> files = [];
        foreach (string name in model.Names)
        {
            files.Add(await Ask(() => _client.LookUpAsync(repository, revision, name, ct)));
            revision = files[0].Commit; // a branch that moves meanwhile must not mix two commits
        }
        await DownloadAsync(files, progress, ct);
        _cache.SetCommit(repository, reference.Revision, files[0].Commit);
        return Model(reference, files[0].Commit, model);
    }

    public void Dispose() => _client.Dispose();

    private async Task DownloadAsync(List<HubFile> files, IProgress<HubProgress>? progress, CancellationToken ct)
    {
        DownloadCount count = new(files.Sum(file => file.Size), progress);
        bool IsThere(HubFile file) => _cache.Has(file.Repository, file.Commit, file.Path, file.Size);
        string Blob(HubFile file) => _cache.Blob(file.Repository, file.Etag);

        _cache.Prepare(files[0].Repository, files[0].Commit);
        long needed =
            files.Where(file => !IsThere(file) && HubCache.Length(Blob(file)) != file.Size)
                .Sum(file => file.Size - PartialFile.DoneOf(Blob(file), file.Size, _options.RangeBytes));
        if (_cache.FreeBytes is { } free && needed > free)
            throw new HubException(
                $"{files[0].Repository}: {Bytes(needed)} are to come, but {_cache.Root} has {Bytes(free)} left "
                    + "(HF_HUB_CACHE names another folder)");

        foreach (HubFile file in files)
        {
            count.File = file.Path;
            using IDisposable held =
                await _cache.LockAsync(file.Repository, file.Etag,
                    () => count.Note("waiting for another download of it"), ct);
            // Looked at again under the lock: another process may have brought it meanwhile.
            if (IsThere(file))
            {
                count.Add(file.Size);
                continue;
            }
            bool isNew = HubCache.Length(Blob(file)) != file.Size;
            if (isNew) await new HubDownload(_client, _options, file, count).RunAsync(Blob(file), ct);
            else count.Add(file.Size);
            _cache.Link(file.Repository, file.Commit, file.Path, file.Etag, isNew);
        }
    }

    private HubModel Model(HubReference reference, string commit, ModelFiles model)
    {
        string snapshot = _cache.Snapshot(reference.Repository, commit);
        return model.Folder
            ? new HubModel(snapshot, reference.Repository, commit)
            : new HubModel(Path.Combine(snapshot, Path.Combine(model.Names[0].Split('/'))),
                Path.GetFileNameWithoutExtension(model.Names[0]), commit);
    }

    private static ModelFiles Only(HubReference reference, IReadOnlyList<ModelFiles> models, Func<string, long?> size)
    {
        if (models.Count == 1) return models[0];
        string Line(ModelFiles model)
        {
            long? total = model.Names.Select(size).Aggregate((long?)0, (sum, bytes) => sum + bytes);
            return $"  {reference with { File = model.Names[0] }}{(total is { } bytes ? $"  {Bytes(bytes)}" : "")}";
        }
        throw new HubChoiceException(
            $"{reference} has {models.Count} models; name one:\n{string.Join('\n', models.Select(Line))}");
    }

    private static string Bytes(long bytes) => bytes >= 1L << 30
        ? string.Create(CultureInfo.InvariantCulture, $"{bytes / (double)(1L << 30):0.0} GiB")
        : string.Create(CultureInfo.InvariantCulture, $"{bytes / (double)(1L << 20):0.0} MiB");
}
